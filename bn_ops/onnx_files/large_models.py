"""Models that may be too large for one protobuf message.

A message holds less than 2 GiB, and everything that serialises a model on its way fails beyond:
onnx's checker, shape inference, the inliner, onnxruntime's sessions, `SerializeToString`. In memory
a model may be of any size. This module is the one place that knows how to hand such a model on: its
tensors apart from its structure. How it lies in files is `bn_ops.onnx_files.read_write`' matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bn_ops.errors import ModelUnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

__all__ = [
    "MESSAGE_LIMIT",
    "Packed",
    "add_naming_large",
    "bare_copy",
    "exceeds",
    "inlined",
    "light_copy",
    "model_digest",
    "name_large_tensors",
    "packed",
    "raw_bytes",
    "serialised",
    "tensor_digest",
    "within_message",
]

MESSAGE_LIMIT = 2**31 - 1
"""Bytes of a protobuf message; Source: protobuf's documentation, "Proto Limits"."""

_SMALL_ELEMENTS = 256
"""Tensors up to this stay in the structure: shapes and axes, which shape inference reads."""

_STRUCTURE_BYTES = 64 << 20
"""What nodes, names and small tensors take at most, generously, before a model is measured."""

_VALUES = {
    "raw_data": 1,
    "float_data": 4,
    "int32_data": 4,
    "int64_data": 8,
    "double_data": 8,
    "uint64_data": 8,
}
"""Fields in which a tensor may hold its numbers, and bytes of one of their elements."""

_VARINT_BYTES = 10
"""Bytes that an integer outside `raw_data` takes at most; a negative one takes them. Source:
protobuf's documentation, "Encoding"."""


def exceeds(model: onnx.ModelProto, limit: int | None = None) -> bool:
    """Tell whether a model is too large for one message of at most `limit` bytes.

    Args:
        model: not changed.
        limit: `MESSAGE_LIMIT` by default.
    """
    from google.protobuf.message import EncodeError  # noqa: PLC0415 - onnx brings it

    most = MESSAGE_LIMIT if limit is None else limit
    counts = [_counts(tensor) for tensor in model.graph.initializer]
    if sum(map(_payload, counts)) > most:
        return True
    # Measuring a message serialises it, which is not worth it where there is room to spare.
    if sum(map(_encoded, counts)) + _STRUCTURE_BYTES <= most:
        return False
    try:
        return int(model.ByteSize()) > most
    except EncodeError:
        return True


def _counts(tensor: onnx.TensorProto) -> dict[str, int]:
    """Count the elements of each field that holds numbers."""
    return {name: len(getattr(tensor, name)) for name in _VALUES}


def _payload(counts: Mapping[str, int]) -> int:
    """Bytes of a tensor's numbers."""
    return sum(count * _VALUES[name] for name, count in counts.items())


def _encoded(counts: Mapping[str, int]) -> int:
    """Bytes that they take in a message at most."""
    return sum(
        count * (_VARINT_BYTES if "int" in name else _VALUES[name])
        for name, count in counts.items()
    )


def _is_large(tensor: onnx.TensorProto, keep: int = _SMALL_ELEMENTS) -> bool:
    """Tell by its shape: whoever looks at data gets a copy of them."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    if tensor.data_type == onnx.TensorProto.STRING:
        return keep < 0  # strings have no bytes to lie beside a model
    return bool(math.prod(tensor.dims) > keep)


def raw_bytes(tensor: onnx.TensorProto) -> bytes:
    """Return a tensor's numbers as `raw_data` holds them, whatever field they lie in."""
    from onnx import numpy_helper  # noqa: PLC0415 - the light modules load without it

    if not tensor.HasField("raw_data"):
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
    return bytes(tensor.raw_data)


def serialised(model: onnx.ModelProto, limit: int | None = None) -> bytes:
    """Serialise a model, the same model always to the same bytes.

    Raises:
        ModelUnsupportedError: it does not fit one message of `limit` bytes.
    """
    if exceeds(model, limit):
        most = MESSAGE_LIMIT if limit is None else limit
        raise ModelUnsupportedError(
            f"the model does not fit the {most:,} bytes of one message; save it to a file, beside "
            "which its tensors may lie"
        )
    return bytes(model.SerializeToString(deterministic=True))


def model_digest(model: onnx.ModelProto, limit: int | None = None) -> str:
    """sha256 of a model's deterministic serialisation, hexadecimal.

    Of a model that does not fit one message: of its structure's, followed by its tensors' digests.
    """
    if not exceeds(model, limit):
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    digest = hashlib.sha256(bare_copy(model).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        digest.update(bytes.fromhex(tensor_digest(tensor)))
    return digest.hexdigest()


def bare_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the initializers of its main graph, which are not even touched."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    copy = onnx.ModelProto()
    _copy_fields(model, copy, but={"graph"})
    copy.graph.SetInParent()
    _copy_fields(model.graph, copy.graph, but={"initializer"})
    return copy


def _copy_fields(source: Any, target: Any, *, but: Collection[str]) -> None:
    # Not `ListFields`: it makes a copy of each value, that of large data too.
    for field in source.DESCRIPTOR.fields:
        if field.name in but:
            continue
        if field.is_repeated:
            _copy_elements(getattr(source, field.name), getattr(target, field.name))
        elif source.HasField(field.name):
            value = getattr(source, field.name)
            if field.message_type is not None:
                getattr(target, field.name).CopyFrom(value)
            else:
                setattr(target, field.name, value)


def _copy_elements(source: Any, target: Any) -> None:
    if not hasattr(target, "add"):
        target.extend(source)
        return
    for element in source:
        # Not `extend`: it serialises what it copies.
        target.add().CopyFrom(element)


def within_message(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what stands for a model where only its structure is looked at: itself, if it fits."""
    return light_copy(model) if exceeds(model) else model


def light_copy(model: onnx.ModelProto, *, keep: int = _SMALL_ELEMENTS) -> onnx.ModelProto:
    """Copy a model with its large tensors as mere inputs.

    Whatever looks only at structure takes such a copy: the checker, shape inference.

    Args:
        model: not changed.
        keep: elements up to which a tensor stays a tensor.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    copy = bare_copy(model)
    given = {value.name for value in copy.graph.input}
    for tensor in model.graph.initializer:
        if not _is_large(tensor, keep):
            copy.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in given:
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return copy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """A model as onnxruntime takes it.

    Attributes:
        content: the serialised model.
        beside: initializers that are only named in it; to be passed with
            `SessionOptions.add_external_initializers`.
    """

    content: bytes
    beside: Mapping[str, NDArray[np.generic]]


def packed(
    model: onnx.ModelProto, limit: int | None = None, *, more_outputs: Iterable[str] = ()
) -> Packed:
    """Serialise a model, its large tensors apart where it does not fit one message.

    Args:
        model: not changed.
        limit: `MESSAGE_LIMIT` by default.
        more_outputs: tensors that are outputs, too.

    Raises:
        ModelUnsupportedError: what is left without the tensors of the main graph is too large.
    """
    more = tuple(more_outputs)
    whole = not exceeds(model, limit)
    if whole and not more:
        return Packed(content=bytes(model.SerializeToString()), beside={})
    copy = bare_copy(model)
    for name in more:
        copy.graph.output.add(name=name)
    if whole:
        _copy_elements(model.graph.initializer, copy.graph.initializer)
        return Packed(content=bytes(copy.SerializeToString()), beside={})
    beside = name_large_tensors(model.graph.initializer, copy.graph)
    return Packed(content=serialised(copy), beside=beside)


def name_large_tensors(
    tensors: Iterable[onnx.TensorProto], graph: onnx.GraphProto
) -> dict[str, NDArray[np.generic]]:
    """Add tensors to a graph, the large ones by name only; return the values of those."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    large: dict[str, NDArray[np.generic]] = {}
    for tensor, named in add_naming_large(tensors, graph):
        large[tensor.name] = onnx.numpy_helper.to_array(tensor)
        named.external_data.add(key="location", value="in memory")
    return large


def add_naming_large(
    tensors: Iterable[onnx.TensorProto], graph: onnx.GraphProto
) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto]]:
    """Add tensors to a graph, the large ones without their data.

    Yields:
        Each large tensor, and what stands in the graph for it: where its data lie is to be written
        there.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    for tensor in tensors:
        named = graph.initializer.add()
        if not _is_large(tensor):
            named.CopyFrom(tensor)
            continue
        _copy_fields(tensor, named, but={*_VALUES, "external_data"})
        named.data_location = onnx.TensorProto.EXTERNAL
        yield tensor, named


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with its local functions inlined."""
    from onnx import inliner  # noqa: PLC0415 - the light modules of this package load without it

    if not model.functions:
        copy = type(model)()
        copy.CopyFrom(model)
        return copy
    if not exceeds(model):
        return inliner.inline_local_functions(model)
    result = inliner.inline_local_functions(light_copy(model, keep=-1))
    given = {value.name for value in model.graph.input}
    kept = [value for value in result.graph.input if value.name in given]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    _copy_elements(model.graph.initializer, result.graph.initializer)
    return result


def tensor_digest(tensor: onnx.TensorProto, limit: int | None = None) -> str:
    """sha256 of a tensor's deterministic serialisation, which is not made as a whole.

    A message is its fields in the order of their numbers; that of the data is hashed from where it
    lies. Source: protobuf's documentation, "Encoding". Numbers in other fields than `raw_data` that
    do not fit one message of `limit` bytes are hashed as if they lay there.
    """
    most = MESSAGE_LIMIT if limit is None else limit
    raw = tensor.HasField("raw_data")
    moved = not raw and _encoded(_counts(tensor)) > most
    head = type(tensor)()
    _copy_fields(tensor, head, but=_VALUES if moved else {"raw_data"})
    tail = type(tensor)()
    tail.CopyFrom(head)
    number = tensor.DESCRIPTOR.fields_by_name["raw_data"].number
    for field, _ in tail.ListFields():
        (head if field.number > number else tail).ClearField(field.name)
    digest = hashlib.sha256(head.SerializeToString(deterministic=True))
    if raw or moved:
        data = raw_bytes(tensor)
        digest.update(_varint(number << 3 | _LENGTH_DELIMITED))
        digest.update(_varint(len(data)))
        digest.update(data)
    digest.update(tail.SerializeToString(deterministic=True))
    return digest.hexdigest()


_LENGTH_DELIMITED = 2
"""Wire type of strings and bytes."""


def _varint(value: int) -> bytes:
    """Write a number in groups of seven bits, the lowest first."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
