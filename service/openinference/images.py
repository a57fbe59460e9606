"""An input of encoded images: the checks of its description, and its data if that is JSON.

The data is always converted to the protocol's binary form, in which it is stored; see
`service.formats.image_sequence`. This process never decodes an image.
"""

from __future__ import annotations

import binascii

from bn_ops.errors import BatchInputError
from service.errors import PreprocessMissingError
from service.formats.image_sequence import PREFIX_BYTES
from service.formats.members import MAX_MEMBERS
from service.openinference.faults import unfit

_COLUMN = 2


def require_place(name: str, images: str | None) -> None:
    """Refuse images that the recalibration cannot use.

    Args:
        name: the input's name.
        images: name of the input that takes images; None if the recalibration takes only arrays.

    Raises:
        PreprocessMissingError: the recalibration takes only arrays.
        BatchInputError: another input takes the images.
    """
    if images is None:
        raise PreprocessMissingError(
            f"input {name!r} has the datatype BYTES (encoded images), but the recalibration takes "
            "arrays: open one with preprocess to send images"
        )
    if name != images:
        raise BatchInputError(
            f"input {name!r} is not an input of the model, which takes {[images]}", input_name=name
        )


def require_shape(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape other than [n] or [n, 1].

    Raises:
        BatchMalformedError: another shape, no image, or too many images.
    """
    if len(shape) > _COLUMN or shape[1:] not in {(), (1,)}:
        raise unfit(
            name, f"has the shape {list(shape)}; images have [n] or [n, 1], one whole file each"
        )
    if not 0 < shape[0] <= MAX_MEMBERS:
        raise unfit(
            name,
            f"announces {shape[0]} images; a request has at least 1 and at most {MAX_MEMBERS}",
        )


def require_length(name: str, images: int, announced: object) -> int:
    """Return the number of bytes of binary data that follow.

    Raises:
        BatchMalformedError: not a number, or too few bytes for the number of images.
    """
    least = images * (PREFIX_BYTES + 1)
    if type(announced) is not int or announced < least:
        raise unfit(
            name,
            f"announces {announced!r} bytes; {images} images need at least {least}: each follows "
            f"its length, which has {PREFIX_BYTES} bytes",
        )
    return announced


def from_json(name: str, shape: tuple[int, ...], data: object) -> bytes:
    """Return the binary form of images that were sent as base64 strings.

    Args:
        name: the input's name, for messages.
        shape: the announced shape, (n,) or (n, 1).
        data: a list of n strings, or of n lists of one string.

    Raises:
        BatchMalformedError: another number of strings, or one that is not base64.
    """
    if not isinstance(data, list):
        raise unfit(name, "has no list `data`")
    if len(data) != shape[0]:
        raise unfit(name, f"has the shape {list(shape)}, its data has {len(data)} elements")
    parts: list[bytes] = []
    for place, text in enumerate(data):
        if len(shape) == _COLUMN and isinstance(text, list) and len(text) == 1:
            (text,) = text  # noqa: PLW2901 - unwraps a row of one
        content = _decoded(name, place, text)
        parts += [len(content).to_bytes(PREFIX_BYTES, "little"), content]
    return b"".join(parts)


def _decoded(name: str, place: int, text: object) -> bytes:
    try:
        content = binascii.a2b_base64(text, strict_mode=True) if isinstance(text, str) else None
    except ValueError:
        content = None
    if content is None:
        raise unfit(
            name,
            f"has an element at index {place} that is not base64: in JSON, send each image file as "
            "a base64 string (RFC 4648, section 4); or send binary data",
            image=place,
        )
    if not content:
        raise unfit(name, f"has an empty image at index {place}", image=place)
    return content
