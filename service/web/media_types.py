"""Content types: what a body is, by its header alone."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import PurePosixPath

from starlette.requests import Request

from service.errors import MediaTypeError

MODEL_TYPES = (
    "application/octet-stream",
    "application/x-onnx",
    "application/onnx",
    "application/zip",
)
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
# What programs say of a file that they do not know.
UNTOLD = frozenset({"", "application/octet-stream"})
SUFFIXES = {
    ".safetensors": "application/vnd.safetensors",
    ".npy": "application/x-npy",
    ".npz": "application/x-npz",
    ".arrows": "application/vnd.apache.arrow.stream",
    ".arrow": "application/vnd.apache.arrow.stream",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".tar": "application/x-tar",
    ".zip": "application/zip",
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
    return _taken(BATCH_FORMATS[found])


def _taken(kind: str) -> str:
    if kind == "arrow" and not _has_arrow():
        raise MediaTypeError('this server reads no Arrow: pip install "bnrecal[arrow]" there')
    return kind


def part_format(found: str, name: str) -> str:
    """Return the format of a file in a form, by its type or, where that says nothing, its name.

    Raises:
        MediaTypeError: neither names a format of batches.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if found in UNTOLD and suffix in SUFFIXES:
        found = SUFFIXES[suffix]
    if found in UNTOLD or found not in BATCH_FORMATS:
        raise MediaTypeError(
            f"the file {name[:100]!r} of type {found[:100]!r} is no batch: name it with one of "
            f"{sorted(SUFFIXES)}, or give it one of the types {list(BATCH_FORMATS)}"
        )
    return _taken(BATCH_FORMATS[found])


@cache
def _has_arrow() -> bool:
    """Tell whether the worker will find it; loads nothing."""
    return importlib.util.find_spec("pyarrow") is not None
