"""Models that may be too large for one protobuf message.

A message holds less than 2 GiB, and everything that serialises a model on its way fails beyond:
onnx's checker, shape inference, the inliner, onnxruntime's sessions, `SerializeToString`. In memory
a model may be of any size. This module is the one place that knows how to hand such a model on: its
tensors apart from its structure. How it lies in files is `bn_ops.modelfiles`' matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
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
    "bare_copy",
    "exceeds",
    "light_copy",
    "packed",
    "serialised",
    "tensor_digest",
]

MESSAGE_LIMIT = 2**31 - 1
"""Bytes of a protobuf message; Source: protobuf's documentation, "Proto Limits"."""

_SMALL_BYTES = 1024
"""Tensors up to this stay in the structure: shapes and axes, which shape inference reads."""

_STRUCTURE_BYTES = 64 << 20
"""What nodes, names and small tensors take at most, generously, before a model is measured."""


def exceeds(model: onnx.ModelProto, limit: int = MESSAGE_LIMIT) -> bool:
    """Tell whether a model is too large for one message of at most `limit` bytes."""
    tensors = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if tensors > limit:
        return True
    # Measuring a message serialises it, which is not worth it where there is room to spare.
    if tensors + _STRUCTURE_BYTES <= limit:
        return False
    return _measured(model) > limit


def _measured(model: onnx.ModelProto) -> int:
    try:
        return int(model.ByteSize())
    except Exception:  # noqa: BLE001 - protobuf's EncodeError, which it does not export by one name
        return MESSAGE_LIMIT + 1


def serialised(model: onnx.ModelProto, limit: int = MESSAGE_LIMIT) -> bytes:
    """Serialise a model, the same model always to the same bytes.

    Raises:
        ModelUnsupportedError: it does not fit one message.
    """
    if exceeds(model, limit):
        raise ModelUnsupportedError(
            f"the model does not fit the {limit:,} bytes of one message; save it to a file, beside "
            "which its tensors may lie"
        )
    return bytes(model.SerializeToString(deterministic=True))


def bare_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the initializers of its main graph, whatever they weigh."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    copy = onnx.ModelProto()
    _copy_fields(model, copy, but="graph")
    copy.graph.SetInParent()
    _copy_fields(model.graph, copy.graph, but="initializer")
    return copy


def _copy_fields(source: Any, target: Any, *, but: str) -> None:
    for descriptor, value in source.ListFields():
        name = descriptor.name
        if name == but:
            continue
        if hasattr(value, "extend"):
            getattr(target, name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)


def light_copy(model: onnx.ModelProto, *, keep: int = _SMALL_BYTES) -> onnx.ModelProto:
    """Copy a model with its large tensors as mere inputs.

    Whatever looks only at structure takes such a copy: the checker, shape inference.

    Args:
        model: not changed.
        keep: bytes up to which a tensor stays a tensor.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    copy = bare_copy(model)
    given = {value.name for value in copy.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= keep:
            copy.graph.initializer.append(tensor)
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


def packed(model: onnx.ModelProto, limit: int = MESSAGE_LIMIT) -> Packed:
    """Serialise a model, its large tensors apart where it does not fit one message.

    Raises:
        ModelUnsupportedError: what is left without the tensors of the main graph is too large.
    """
    if not exceeds(model, limit):
        return Packed(content=bytes(model.SerializeToString()), beside={})
    copy = bare_copy(model)
    beside = name_large_tensors(model.graph.initializer, copy.graph, _SMALL_BYTES)
    return Packed(content=serialised(copy), beside=beside)


def name_large_tensors(
    tensors: Iterable[onnx.TensorProto], graph: onnx.GraphProto, keep: int
) -> dict[str, NDArray[np.generic]]:
    """Add tensors to a graph, the large ones by name only; return the values of those.

    Args:
        tensors: what to add.
        graph: the graph, in place.
        keep: bytes up to which a tensor is added whole.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    large: dict[str, NDArray[np.generic]] = {}
    for tensor in tensors:
        if len(tensor.raw_data) <= keep:
            graph.initializer.append(tensor)
            continue
        large[tensor.name] = onnx.numpy_helper.to_array(tensor)
        named = graph.initializer.add(
            name=tensor.name,
            data_type=tensor.data_type,
            dims=tensor.dims,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        named.external_data.add(key="location", value="in memory")
    return large


def tensor_digest(tensor: onnx.TensorProto, limit: int = MESSAGE_LIMIT) -> str:
    """sha256 of a tensor's deterministic serialisation; of its parts where it fits no message."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    if len(tensor.raw_data) + _SMALL_BYTES <= limit:
        return hashlib.sha256(tensor.SerializeToString(deterministic=True)).hexdigest()
    head = onnx.TensorProto()
    _copy_fields(tensor, head, but="raw_data")
    digest = hashlib.sha256(head.SerializeToString(deterministic=True))
    digest.update(tensor.raw_data)
    return digest.hexdigest()
