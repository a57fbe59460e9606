"""An input of encoded images: what the request says of it, and its data where that is JSON.

Either way the data is in the protocol's binary form afterwards: each image behind its length. This
process never looks into an image; see `service.openinference.image_tar` for what becomes of it.
"""

from __future__ import annotations

import binascii

from bn_ops.errors import BatchInputError
from service.errors import PreprocessMissingError
from service.formats.members import MOST_MEMBERS
from service.openinference.faults import unfit

PREFIX_BYTES = 4
"""Of the length before each element: little-endian, without sign.

Source: Open Inference Protocol, binary tensor data extension, "BYTES".
"""
_COLUMN = 2


def require_place(name: str, images: str | None) -> None:
    """Refuse images where none are taken.

    Args:
        name: the input's name.
        images: the input that images feed; None where the recalibration takes arrays only.

    Raises:
        PreprocessMissingError: the recalibration takes arrays only.
        BatchInputError: another input takes them.
    """
    if images is None:
        raise PreprocessMissingError(
            f"input {name!r} is BYTES, which are encoded images, and the recalibration takes "
            "arrays: open one with preprocess to send images"
        )
    if name != images:
        raise BatchInputError(
            f"input {name!r} is not an input of the model, which takes {[images]}", input_name=name
        )


def require_shape(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not one of n images.

    Raises:
        BatchMalformedError: another shape than [n] or [n, 1], none or too many of them.
    """
    if len(shape) > _COLUMN or shape[1:] not in {(), (1,)}:
        raise unfit(
            name, f"has the shape {list(shape)}; images come as [n] or [n, 1], one whole file each"
        )
    if not 0 < shape[0] <= MOST_MEMBERS:
        raise unfit(
            name,
            f"says that it holds {shape[0]} images; a request holds at least 1 and at most "
            f"{MOST_MEMBERS}",
        )


def require_length(name: str, images: int, announced: object) -> int:
    """Return how many bytes of binary data follow.

    Raises:
        BatchMalformedError: no number, or too few for so many images.
    """
    least = images * (PREFIX_BYTES + 1)
    if type(announced) is not int or announced < least:
        raise unfit(
            name,
            f"announces {announced!r} bytes; {images} images take at least {least}, each behind "
            f"its length in {PREFIX_BYTES} bytes",
        )
    return announced


def from_json(name: str, shape: tuple[int, ...], data: object) -> bytes:
    """Return the binary form of images that came as base64 text.

    Args:
        name: the input's name, for messages.
        shape: what the request says: (n,) or (n, 1).
        data: a list of n texts, or of n lists of one text.

    Raises:
        BatchMalformedError: another number of texts, or one that is no base64.
    """
    if not isinstance(data, list):
        raise unfit(name, "has no list of `data`")
    if len(data) != shape[0]:
        raise unfit(name, f"says shape {list(shape)}, its data has {len(data)} elements")
    parts: list[bytes] = []
    for place, text in enumerate(data):
        if len(shape) == _COLUMN and isinstance(text, list) and len(text) == 1:
            (text,) = text  # noqa: PLW2901 - a row of one is that one
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
            f"holds at place {place} what is no base64: in JSON each image is its file as base64 "
            "text (RFC 4648, section 4), otherwise send binary data",
            image=place,
        )
    if not content:
        raise unfit(name, f"holds no byte at place {place}, where an image belongs", image=place)
    return content
