"""Content types: the format of a body according to its header alone."""

from __future__ import annotations

from pathlib import PurePosixPath

from starlette.requests import Request

from service.errors import MediaTypeError
from service.formats.registry import BY_MEDIA_TYPE, BY_SUFFIX, BatchFormat

MODEL_TYPES = (
    "application/octet-stream",
    "application/x-onnx",
    "application/onnx",
    "application/zip",
)
BATCH_TYPES = tuple(BY_MEDIA_TYPE)
# What clients send for a file of unknown type.
_UNSPECIFIC = frozenset({"", "application/octet-stream"})


def media_type(request: Request) -> str:
    """Return the content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_model(request: Request) -> None:
    """Refuse a body whose content type is not that of a model.

    Raises:
        MediaTypeError: another content type.
    """
    if (found := media_type(request)) not in MODEL_TYPES:
        raise MediaTypeError(f"a model has one of the types {list(MODEL_TYPES)}, got {found!r}")


def batch_format(request: Request) -> str:
    """Return the name of the format of a batch body.

    Raises:
        MediaTypeError: the content type is not a batch format.
    """
    found = media_type(request)
    if found not in BY_MEDIA_TYPE:
        raise MediaTypeError(f"a batch has one of the types {list(BATCH_TYPES)}, got {found!r}")
    return _available(BY_MEDIA_TYPE[found])


def part_format(found: str, name: str) -> str:
    """Return the name of the format of a file in a form.

    Args:
        found: the part's content type, which decides unless it is unspecific.
        name: the file name, whose suffix decides otherwise.

    Raises:
        MediaTypeError: neither names a batch format.
    """
    if found in _UNSPECIFIC:
        known = BY_SUFFIX.get(PurePosixPath(name).suffix.lower())
    else:
        known = BY_MEDIA_TYPE.get(found)
    if known is None:
        raise MediaTypeError(
            f"the file {name[:100]!r} of type {found[:100]!r} is not a batch: use one of the "
            f"suffixes {sorted(BY_SUFFIX)} or one of the types {list(BATCH_TYPES)}"
        )
    return _available(known)


def _available(found: BatchFormat) -> str:
    if not found.is_available:
        raise MediaTypeError(
            f"this server cannot read {found.name}: install its optional dependency with "
            f'pip install "bnrecal[{found.name}]"'
        )
    return found.name


# Content negotiation between JSON and HTML.


def prefers_html(accept: str | None) -> bool:
    """Return whether an Accept header ranks `text/html` above `application/json`."""
    return _quality(accept, "text/html") > _quality(accept, "application/json")


def _quality(accept: str | None, wanted: str) -> float:
    """Return the quality of a media type; the most specific matching range decides."""
    if accept is None or not accept.strip():
        return 1.0
    best = (-1, 0.0)
    for member in accept.split(","):
        kind, *parameters = (part.strip() for part in member.split(";"))
        rank = _specificity(kind.lower(), wanted)
        if rank > best[0]:
            best = (rank, _weight(parameters))
    return best[1]


def _specificity(kind: str, wanted: str) -> int:
    if kind == wanted:
        return 2
    if kind == wanted.partition("/")[0] + "/*":
        return 1
    return 0 if kind == "*/*" else -1


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
