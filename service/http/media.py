"""Content types: what a body is, by its header alone."""

from __future__ import annotations

import importlib.util
from functools import cache

from starlette.requests import Request

from service.errors import MediaTypeError

MODEL_TYPES = ("application/octet-stream", "application/x-onnx", "application/onnx")
BATCH_FORMATS = {
    "application/vnd.safetensors": "safetensors",
    "application/octet-stream": "safetensors",
    "application/x-npy": "npy",
    "application/x-npz": "npz",
    "application/vnd.apache.arrow.stream": "arrow",
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "application/x-tar": "tar",
    "application/zip": "zip",
}


def media_type(request: Request) -> str:
    """Return the content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_model(request: Request) -> None:
    """Refuse a body that does not say that it is a model.

    Raises:
        MediaTypeError: another content type.
    """
    if (found := media_type(request)) not in MODEL_TYPES:
        raise MediaTypeError(f"a model has one of the types {list(MODEL_TYPES)}, got {found!r}")


def batch_format(request: Request) -> str:
    """Return the format of a batch body.

    Raises:
        MediaTypeError: a content type that is no format of batches.
    """
    found = media_type(request)
    if found not in BATCH_FORMATS:
        raise MediaTypeError(f"a batch has one of the types {list(BATCH_FORMATS)}, got {found!r}")
    kind = BATCH_FORMATS[found]
    if kind == "arrow" and not _has_arrow():
        raise MediaTypeError('this server reads no Arrow: pip install "bnrecal[arrow]" there')
    return kind


@cache
def _has_arrow() -> bool:
    """Tell whether the worker will find it; loads nothing."""
    return importlib.util.find_spec("pyarrow") is not None
