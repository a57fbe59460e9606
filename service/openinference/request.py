"""The JSON part of an inference request, parsed to values; sans I/O.

Members that a batch does not need (requested outputs, parameters of the request, unknown members)
are ignored: mirrored traffic was written for another server.
"""

from __future__ import annotations

import binascii
import json
import math
from dataclasses import dataclass
from typing import Any

from bn_ops.errors import BatchInputError
from service.errors import PreprocessMissingError, RequestInvalidError, TooLargeError
from service.formats.dtypes import itemsize
from service.formats.image_sequence import PREFIX_BYTES
from service.formats.layout import MAX_RANK, json_object
from service.formats.members import MAX_MEMBERS
from service.openinference.datatypes import (
    IMAGES,
    NUMPY,
    require_known,
    safetensors_tag,
    to_bytes,
    unfit,
)

# A parsed list takes 64 bytes of memory for two of text, a number at most 32. With these limits the
# parsed form stays within ten times the size of the text.
MAX_BRACKETS = 200_000
MAX_QUOTES = 10_000
MAX_AXIS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input of a request.

    Attributes:
        name: the input's name.
        datatype: the protocol's element type.
        shape: its shape.
        length: size of its data in bytes; for images, including the length before each.
        data: the bytes if they are in the JSON; None if they follow as binary data.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    length: int
    data: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A checked request: the client's id (may be empty) and the inputs in order."""

    id: str
    tensors: tuple[Tensor, ...]

    @property
    def binary_length(self) -> int:
        """Number of bytes that must follow the JSON."""
        return sum(tensor.length for tensor in self.tensors if tensor.data is None)

    @property
    def images(self) -> Tensor | None:
        """The only input, if it holds images; otherwise None."""
        return self.tensors[0] if self.tensors[0].datatype == IMAGES else None


_COLUMN = 2


def parse(text: bytes | bytearray, *, image_input: str | None) -> InferRequest:
    """Parse the JSON of a request.

    Args:
        text: the JSON.
        image_input: name of the input that takes images; None if the recalibration takes only
            arrays.

    Raises:
        PreprocessMissingError, BatchInputError: the recalibration cannot use the images.
        RequestInvalidError: not a JSON object of the protocol.
        TooLargeError: more lists or strings than a legitimate request has.
        BatchMalformedError: the data of an input contradicts its description.
    """
    table = _object(text)
    name = table.get("id", "")
    inputs = table.get("inputs")
    if not isinstance(name, str | None) or not _is_unicode(name or ""):
        raise RequestInvalidError("`id` must be a string of valid Unicode")
    if not isinstance(inputs, list) or not inputs:
        raise RequestInvalidError("`inputs` must be a list of at least one tensor")
    tensors = tuple(_tensor(one, image_input) for one in inputs)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise RequestInvalidError("`inputs` has a duplicate name")
    if len(tensors) > 1 and any(tensor.datatype == IMAGES for tensor in tensors):
        raise BatchInputError(
            f"images must be the only input; the request has {len(tensors)} inputs"
        )
    return InferRequest(id=name or "", tensors=tensors)


def safetensors_header(request: InferRequest) -> bytes:
    """Return the header of a safetensors file whose data is the bytes of the tensors in order."""
    table: dict[str, Any] = {}
    begin = 0
    for tensor in request.tensors:
        offsets = [begin, begin + tensor.length]
        tag = safetensors_tag(tensor.datatype)
        table[tensor.name] = {"dtype": tag, "shape": tensor.shape, "data_offsets": offsets}
        begin += tensor.length
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header


def _object(text: bytes | bytearray) -> dict[str, Any]:
    if text.count(b"[") + text.count(b"{") > MAX_BRACKETS or text.count(b'"') > MAX_QUOTES:
        raise TooLargeError(
            "the JSON has too many lists or strings: send `data` as one flat list or as binary data"
        )
    return json_object(text, "the request")


def _is_unicode(value: str) -> bool:
    """Return whether a string is valid Unicode, that is, without lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _tensor(value: object, image_input: str | None) -> Tensor:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise RequestInvalidError("each element of `inputs` must be an object with a `name`")
    name = value["name"]
    datatype = require_known(name, value.get("datatype"), images=image_input is not None)
    shape = _shape(name, value.get("shape"))
    if datatype == IMAGES:
        require_place(name, image_input)
        require_shape(name, shape)
    parameters = value.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestInvalidError(f"the `parameters` of input {name!r} must be an object")
    if "shared_memory_region" in parameters:
        raise unfit(
            name, "is in shared memory, which is not supported: send the data in the request"
        )
    size = parameters.get("binary_data_size")
    if size is not None:
        length = _binary_length(name, datatype, shape, size)
        return Tensor(name=name, datatype=datatype, shape=shape, length=length, data=None)
    data = _from_json(name, datatype, shape, value.get("data"))
    return Tensor(name=name, datatype=datatype, shape=shape, length=len(data), data=data)


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> bytes:
    """Return the binary form of data in the JSON."""
    if datatype == IMAGES:
        return from_json(name, shape, data)
    return to_bytes(name, datatype, shape, data)


def _binary_length(name: str, datatype: str, shape: tuple[int, ...], announced: object) -> int:
    """Return the number of bytes of binary data that follow; it must match the description."""
    if datatype == IMAGES:
        return require_length(name, shape[0], announced)
    expected = math.prod(shape) * itemsize(NUMPY[datatype])
    if type(announced) is not int or announced != expected:
        raise unfit(
            name, f"announces {announced!r} bytes; its shape and datatype require {expected}"
        )
    return expected


def _shape(name: str, value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_RANK
        or not all(type(size) is int and 0 <= size <= MAX_AXIS for size in value)
    ):
        raise unfit(name, "has a shape that is not a list of sizes")
    return tuple(value)


# Encoded images: the checks of their description, and their data if that is JSON. It is always
# converted to the protocol's binary form, in which it is stored; see
# `service.formats.image_sequence`. This process never decodes an image.


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
