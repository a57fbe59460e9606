"""Handle models that are too large for one protobuf message.

A message holds less than 2 GiB, and everything that serializes a larger model fails: onnx's
checker, shape inference, the inliner, onnxruntime's sessions, `SerializeToString`. In memory a
model may be of any size. This module separates the tensors of such a model from its structure;
`bn_ops.onnx_files.read_write` reads and writes its files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bn_ops.errors import ModelUnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

__all__ = [
    "MESSAGE_LIMIT",
    "MIN_IR_WITHOUT_INPUTS",
    "Packed",
    "add_naming_large",
    "bare_copy",
    "check_model",
    "exceeds",
    "inlined",
    "light_copy",
    "model_digest",
    "name_large_tensors",
    "packed",
    "raw_bytes",
    "serialized",
    "tensor_digest",
    "within_message",
]

MESSAGE_LIMIT = 2**31 - 1
"""Maximum bytes of a protobuf message. Source: protobuf's documentation, "Proto Limits"."""

_MAX_SMALL_ELEMENTS = 256
"""Tensors with up to this many elements stay in the structure: shape inference reads shapes and
axes."""

_MIN_SEPARATE_ELEMENTS = 1 << 14
"""Tensors of fewer elements cost less in a message than as arrays of their own."""

_MAX_STRUCTURE_BYTES = 64 << 20
"""Generous bound on the bytes of nodes, names and small tensors."""

MIN_IR_WITHOUT_INPUTS = 4
"""Before this version of the format every initializer also had to be listed as an input."""

_VALUES = {
    "raw_data": 1,
    "float_data": 4,
    "int32_data": 4,
    "int64_data": 8,
    "double_data": 8,
    "uint64_data": 8,
}
"""Fields in which a tensor may hold its values, and bytes per element of each field."""

_MAX_VARINT_BYTES = 10
"""Maximum bytes of an integer outside `raw_data`, as for a negative one. Source: protobuf's
documentation, "Encoding"."""


def exceeds(model: onnx.ModelProto, limit: int | None = None) -> bool:
    """Return whether a model is too large for one message of at most `limit` bytes.

    Args:
        model: not changed.
        limit: `MESSAGE_LIMIT` by default.
    """
    from google.protobuf.message import EncodeError  # noqa: PLC0415 - onnx brings it

    limit = MESSAGE_LIMIT if limit is None else limit
    counts = [_counts(tensor) for tensor in model.graph.initializer]
    if sum(map(_payload, counts)) > limit:
        return True
    # Measuring a message serializes it, which is avoided where the bound is sufficient.
    if sum(map(_encoded, counts)) + _MAX_STRUCTURE_BYTES <= limit:
        return False
    try:
        return int(model.ByteSize()) > limit
    except EncodeError:
        return True


def _counts(tensor: onnx.TensorProto) -> dict[str, int]:
    """Return the number of elements of each value field."""
    return {name: len(getattr(tensor, name)) for name in _VALUES}


def _payload(counts: Mapping[str, int]) -> int:
    """Return the bytes of a tensor's values."""
    return sum(count * _VALUES[name] for name, count in counts.items())


def _encoded(counts: Mapping[str, int]) -> int:
    """Return the maximum bytes of a tensor's values in a message."""
    return sum(
        count * (_MAX_VARINT_BYTES if "int" in name else _VALUES[name])
        for name, count in counts.items()
    )


def _is_large(tensor: onnx.TensorProto, keep: int = _MAX_SMALL_ELEMENTS) -> bool:
    """Decide by the shape: accessing the data would copy it."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    if tensor.data_type == onnx.TensorProto.STRING:
        return keep < 0  # strings cannot be external data
    return bool(math.prod(tensor.dims) > keep)


def raw_bytes(tensor: onnx.TensorProto) -> bytes:
    """Return a tensor's values in the form of `raw_data`, whichever field holds them."""
    from onnx import numpy_helper  # noqa: PLC0415 - the light modules load without it

    if not tensor.HasField("raw_data"):
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
    return bytes(tensor.raw_data)


def serialized(model: onnx.ModelProto, limit: int | None = None) -> bytes:
    """Serialize a model deterministically.

    Raises:
        ModelUnsupportedError: it does not fit one message of `limit` bytes.
    """
    if exceeds(model, limit):
        limit = MESSAGE_LIMIT if limit is None else limit
        raise ModelUnsupportedError(
            f"the model does not fit the {limit:,} bytes of one protobuf message; save it to a "
            "file, which may have external data"
        )
    return bytes(model.SerializeToString(deterministic=True))


def model_digest(model: onnx.ModelProto, limit: int | None = None) -> str:
    """Return the sha256 of a model's deterministic serialization, hexadecimal.

    For a model that does not fit one message, the digest covers its structure followed by the
    digests of its initializers.
    """
    digest = hashlib.sha256()
    if not exceeds(model, limit):
        for part in _serialized_parts(model):
            digest.update(part)
        return digest.hexdigest()
    digest.update(bare_copy(model).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        digest.update(bytes.fromhex(tensor_digest(tensor)))
    return digest.hexdigest()


def _serialized_parts(model: onnx.ModelProto) -> Iterator[bytes]:
    """Yield the deterministic serialization of a model, one initializer at a time.

    Serializing a model as a whole touches three times its size of fresh memory.
    """
    tensors = model.graph.initializer
    unknown = any(_has_unknown_fields(message) for message in (model, model.graph, *tensors))
    if unknown or not model.HasField("graph"):
        # Unknown fields are written at the end of their message, and parts do not hold them.
        yield model.SerializeToString(deterministic=True)
        return
    bare = bare_copy(model)
    head, tail = _around(bare, "graph")
    graph_head, graph_tail = _around(bare.graph, "initializer")
    sizes = [sum(map(len, _tensor_parts(tensor))) for tensor in tensors]
    fronts = [_front(model.graph, "initializer", size) for size in sizes]
    length = len(graph_head) + sum(map(len, fronts)) + sum(sizes) + len(graph_tail)
    yield head
    yield _front(model, "graph", length)
    yield graph_head
    for front, tensor in zip(fronts, tensors, strict=True):
        yield front
        yield from _tensor_parts(tensor)
    yield graph_tail
    yield tail


def _has_unknown_fields(message: Any) -> bool:
    from google.protobuf.unknown_fields import UnknownFieldSet  # noqa: PLC0415 - onnx brings it

    return len(UnknownFieldSet(message)) > 0


def bare_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the initializers of its main graph, whose data is not accessed."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    copy = onnx.ModelProto()
    _copy_fields(model, copy, exclude={"graph"})
    copy.graph.SetInParent()
    _copy_fields(model.graph, copy.graph, exclude={"initializer"})
    return copy


def _copy_fields(source: Any, target: Any, *, exclude: Collection[str]) -> None:
    # Not `ListFields`: it copies each value, including large data.
    for field in source.DESCRIPTOR.fields:
        if field.name in exclude:
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
        # Not `extend`: it serializes what it copies.
        target.add().CopyFrom(element)


def check_model(model: onnx.ModelProto) -> None:
    """Run the ONNX checker, on one large tensor at a time.

    The checker serializes what it checks, which takes three times the model's size of fresh memory
    where it is the whole model. In a model that does not fit one message large tensors are not
    checked.

    Raises:
        onnx.checker.ValidationError: the model is not valid.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    # A light copy lists large tensors as inputs, whether the model does or not.
    if model.ir_version < MIN_IR_WITHOUT_INPUTS:
        onnx.checker.check_model(within_message(model))
        return
    onnx.checker.check_model(light_copy(model))
    if not exceeds(model):
        for tensor in filter(_is_large, model.graph.initializer):
            onnx.checker.check_tensor(tensor)


def within_message(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, or a light copy if it does not fit; for uses that only need structure."""
    return light_copy(model) if exceeds(model) else model


def light_copy(model: onnx.ModelProto, *, keep: int = _MAX_SMALL_ELEMENTS) -> onnx.ModelProto:
    """Copy a model with its large initializers turned into inputs.

    Sufficient for the checker and shape inference, which only need the structure.

    Args:
        model: not changed.
        keep: number of elements up to which a tensor remains an initializer.
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
    """A model in the form that onnxruntime takes.

    Attributes:
        content: the serialized model; not readable without the initializers that it only names.
        external_initializers: values of the initializers that it only names, for
            `SessionOptions.add_external_initializers`.
    """

    content: bytes
    external_initializers: Mapping[str, NDArray[np.generic]]


def packed(
    model: onnx.ModelProto, limit: int | None = None, *, more_outputs: Iterable[str] = ()
) -> Packed:
    """Serialize a model, with its largest initializers separate.

    Serializing and parsing a tensor takes four times its size of fresh memory, its values as an
    array take it once.

    Args:
        model: not changed.
        limit: `MESSAGE_LIMIT` by default. In a model that does not fit one message of this size,
            every initializer above a few hundred elements is separate.
        more_outputs: tensors to return as additional outputs.

    Raises:
        ModelUnsupportedError: the model is too large even without those initializers.
    """
    copy = bare_copy(model)
    for name in more_outputs:
        copy.graph.output.add(name=name)
    choice = _is_large if exceeds(model, limit) else _is_worth_separating
    external = name_large_tensors(model.graph.initializer, copy.graph, choice)
    return Packed(content=serialized(copy), external_initializers=external)


def _is_worth_separating(tensor: onnx.TensorProto) -> bool:
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    # onnxruntime takes arrays of numpy's own types only.
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return tensor.data_type in kinds and math.prod(tensor.dims) >= _MIN_SEPARATE_ELEMENTS


def name_large_tensors(
    tensors: Iterable[onnx.TensorProto],
    graph: onnx.GraphProto,
    is_large: Callable[[onnx.TensorProto], bool] = _is_large,
) -> dict[str, NDArray[np.generic]]:
    """Add tensors to a graph, large ones by name only; return the values of the large ones."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    large: dict[str, NDArray[np.generic]] = {}
    for tensor, named in add_naming_large(tensors, graph, is_large):
        large[tensor.name] = onnx.numpy_helper.to_array(tensor)
        named.external_data.add(key="location", value="in memory")
    return large


def add_naming_large(
    tensors: Iterable[onnx.TensorProto],
    graph: onnx.GraphProto,
    is_large: Callable[[onnx.TensorProto], bool] = _is_large,
) -> Iterator[tuple[onnx.TensorProto, onnx.TensorProto]]:
    """Add tensors to a graph, large ones without their data.

    Yields:
        Each large tensor and its entry in the graph, to which the caller adds the location of the
        external data.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    for tensor in tensors:
        named = graph.initializer.add()
        if not is_large(tensor):
            named.CopyFrom(tensor)
            continue
        _copy_fields(tensor, named, exclude={*_VALUES, "external_data"})
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
    """Return the sha256 of a tensor's deterministic serialization, without serializing its data.

    A message is the sequence of its fields in the order of their numbers; the data field is hashed
    in place. Source: protobuf's documentation, "Encoding". Values in other fields than `raw_data`
    that do not fit one message of `limit` bytes are hashed as if they were in `raw_data`.
    """
    limit = MESSAGE_LIMIT if limit is None else limit
    moved = not tensor.HasField("raw_data") and _encoded(_counts(tensor)) > limit
    digest = hashlib.sha256()
    for part in _tensor_parts(tensor, moved=moved):
        digest.update(part)
    return digest.hexdigest()


def _tensor_parts(tensor: onnx.TensorProto, *, moved: bool = False) -> Iterator[bytes]:
    """Yield the deterministic serialization of a tensor, with `raw_data` as one part.

    Args:
        tensor: not changed; its unknown fields are left out.
        moved: yield values in other fields as if they were in `raw_data`.
    """
    bare = type(tensor)()
    _copy_fields(tensor, bare, exclude=_VALUES if moved else {"raw_data"})
    head, tail = _around(bare, "raw_data")
    yield head
    if moved or tensor.HasField("raw_data"):
        data = raw_bytes(tensor)
        yield _front(tensor, "raw_data", len(data))
        yield data
    yield tail


def _around(message: Any, name: str) -> tuple[bytes, bytes]:
    """Return the serialization of the fields before and after a field."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    head, tail = type(message)(), type(message)()
    for part in (head, tail):
        part.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        if field.number >= number:
            head.ClearField(field.name)
        if field.number <= number:
            tail.ClearField(field.name)
    return (
        head.SerializeToString(deterministic=True),
        tail.SerializeToString(deterministic=True),
    )


def _front(message: Any, name: str, length: int) -> bytes:
    """Return what precedes the content of a field of a given length in bytes."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


_LENGTH_DELIMITED = 2
"""Wire type of strings and bytes."""


def _varint(value: int) -> bytes:
    """Encode a number in groups of seven bits, least significant first."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
