"""The JSON part of an inference request, as values; sans I/O.

What a batch does not need (requested outputs, parameters of the request, unknown members) is
passed over: mirrored traffic was written for another server.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from service.errors import BatchMalformedError, RequestInvalidError, TooLargeError
from service.formats.dtypes import itemsize
from service.formats.layout import MAX_RANK
from service.openinference import numbers
from service.openinference.datatypes import NUMPY, refuse_unknown, safetensors_tag

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
        length: bytes of its data.
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


def parse(text: bytes | bytearray) -> InferRequest:
    """Read the JSON of a request.

    Raises:
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
    tensors = tuple(_tensor(one) for one in inputs)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise RequestInvalidError("`inputs` has a name twice")
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
            "the JSON nests too many lists: send `data` as one flat list, or as binary data"
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


def _tensor(value: object) -> Tensor:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise RequestInvalidError("each of `inputs` is an object with a `name`")
    name = value["name"]
    datatype = refuse_unknown(name, value.get("datatype"))
    shape = _shape(name, value.get("shape"))
    parameters = value.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestInvalidError(f"input {name!r} has `parameters` that are no object")
    if "shared_memory_region" in parameters:
        raise BatchMalformedError(
            f"input {name!r} lies in shared memory, which this server does not read: "
            "send it in the request",
            input=name,
        )
    size = parameters.get("binary_data_size")
    if size is not None:
        length = _binary_length(name, datatype, shape, size)
        return Tensor(name=name, datatype=datatype, shape=shape, length=length, data=None)
    data = numbers.to_bytes(name, datatype, shape, value.get("data"))
    return Tensor(name=name, datatype=datatype, shape=shape, length=len(data), data=data)


def _binary_length(name: str, datatype: str, shape: tuple[int, ...], announced: object) -> int:
    """Return how many bytes of binary data follow; they must be as many as are announced."""
    expected = math.prod(shape) * itemsize(NUMPY[datatype])
    if type(announced) is not int or announced != expected:
        raise BatchMalformedError(
            f"input {name!r} announces {announced!r} bytes, its shape and datatype make {expected}",
            input=name,
        )
    return expected


def _shape(name: str, value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_RANK
        or not all(type(size) is int and 0 <= size <= LARGEST_AXIS for size in value)
    ):
        raise BatchMalformedError(
            f"input {name!r} has a shape that is no list of sizes", input=name
        )
    return tuple(value)
