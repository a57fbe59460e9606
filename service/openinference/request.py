"""The JSON part of an inference request, as values; sans I/O.

What a batch does not need (requested outputs, parameters of the request, unknown members) is
passed over: mirrored traffic was written for another server.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from bn_ops.errors import BatchInputError
from service.errors import RequestInvalidError, TooLargeError
from service.formats.dtypes import itemsize
from service.formats.layout import MAX_RANK
from service.openinference import images, numbers
from service.openinference.datatypes import IMAGES, NUMPY, refuse_unknown, safetensors_tag
from service.openinference.faults import unfit

# A parsed list takes 64 bytes where its text takes two, a number only up to 32: with these few
# lists and strings the parsed form stays within ten times the text.
MOST_BRACKETS = 200_000
MOST_QUOTES = 10_000
LARGEST_AXIS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input of a request.

    Attributes:
        name: the input's name.
        datatype: the protocol's element type.
        shape: its sizes.
        length: bytes of its data; of images, with the length before each.
        data: the bytes when they came as JSON; None when they follow as binary data.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    length: int
    data: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A checked request: the client's id (empty: none) and the inputs in their order."""

    id: str
    tensors: tuple[Tensor, ...]

    @property
    def binary_length(self) -> int:
        """Bytes that must follow the JSON."""
        return sum(tensor.length for tensor in self.tensors if tensor.data is None)

    @property
    def images(self) -> Tensor | None:
        """The one input, where it holds images."""
        return self.tensors[0] if self.tensors[0].datatype == IMAGES else None


def parse(text: bytes | bytearray, *, image_input: str | None) -> InferRequest:
    """Read the JSON of a request.

    Args:
        text: the JSON.
        image_input: the input that images feed; None where the recalibration takes arrays only.

    Raises:
        PreprocessMissingError, BatchInputError: images come where none are taken.
        RequestInvalidError: it is no JSON object of the protocol.
        TooLargeError: it nests more lists than any honest request.
        BatchMalformedError: an input's data does not fit what it says of itself.
    """
    table = _object(text)
    name = table.get("id", "")
    inputs = table.get("inputs")
    if not isinstance(name, str | None) or not _is_text(name or ""):
        raise RequestInvalidError("`id` is a string, of whole characters")
    if not isinstance(inputs, list) or not inputs:
        raise RequestInvalidError("`inputs` is a list of at least one tensor")
    tensors = tuple(_tensor(one, image_input) for one in inputs)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise RequestInvalidError("`inputs` has a name twice")
    if len(tensors) > 1 and any(tensor.datatype == IMAGES for tensor in tensors):
        raise BatchInputError(f"images come alone; the request has {len(tensors)} inputs")
    return InferRequest(id=name or "", tensors=tensors)


def safetensors_header(request: InferRequest) -> bytes:
    """Return the head of a safetensors file whose data is the tensors' bytes in their order."""
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
    if text.count(b"[") + text.count(b"{") > MOST_BRACKETS or text.count(b'"') > MOST_QUOTES:
        raise TooLargeError(
            "the JSON has too many lists or strings: send `data` as one flat list, or as binary "
            "data"
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestInvalidError("the request is not valid JSON") from error
    if not isinstance(found, dict):
        raise RequestInvalidError("the request is no JSON object")
    return found


def _is_text(value: str) -> bool:
    """Tell whether a string holds no half of a surrogate pair, which nothing can store or send."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _tensor(value: object, image_input: str | None) -> Tensor:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise RequestInvalidError("each of `inputs` is an object with a `name`")
    name = value["name"]
    datatype = refuse_unknown(name, value.get("datatype"), images=image_input is not None)
    shape = _shape(name, value.get("shape"))
    if datatype == IMAGES:
        images.require_place(name, image_input)
        images.require_shape(name, shape)
    parameters = value.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestInvalidError(f"input {name!r} has `parameters` that are no object")
    if "shared_memory_region" in parameters:
        raise unfit(
            name, "lies in shared memory, which this server does not read: send it in the request"
        )
    size = parameters.get("binary_data_size")
    if size is not None:
        length = _binary_length(name, datatype, shape, size)
        return Tensor(name=name, datatype=datatype, shape=shape, length=length, data=None)
    data = _from_json(name, datatype, shape, value.get("data"))
    return Tensor(name=name, datatype=datatype, shape=shape, length=len(data), data=data)


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> bytes:
    """Return the binary form of data that came in the JSON."""
    if datatype == IMAGES:
        return images.from_json(name, shape, data)
    return numbers.to_bytes(name, datatype, shape, data)


def _binary_length(name: str, datatype: str, shape: tuple[int, ...], announced: object) -> int:
    """Return how many bytes of binary data follow; they must be as many as are announced."""
    if datatype == IMAGES:
        return images.require_length(name, shape[0], announced)
    expected = math.prod(shape) * itemsize(NUMPY[datatype])
    if type(announced) is not int or announced != expected:
        raise unfit(name, f"announces {announced!r} bytes, its shape and datatype make {expected}")
    return expected


def _shape(name: str, value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_RANK
        or not all(type(size) is int and 0 <= size <= LARGEST_AXIS for size in value)
    ):
        raise unfit(name, "has a shape that is no list of sizes")
    return tuple(value)
