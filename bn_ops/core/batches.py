"""A caller's stream, whatever it yields, as checked batches of named arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import Batch, TensorInfo, check_batch
from bn_ops.errors import BatchInputError, InputError, OptionError

__all__ = ["Select", "as_array", "named_batches"]

Select = Callable[[Any], Any]
"""Takes one item of the stream, returns the part of it that the model takes."""


def named_batches(
    items: Iterable[Any], inputs: Sequence[TensorInfo], *, select: Select | None = None
) -> Iterator[Batch]:
    """Yield each item of a stream as a checked batch; the stream is read once.

    Args:
        items: arrays or tensors (for a model with one input), tuples or lists in the order of the
            model's inputs, or mappings from input name to array. Tensors are whatever numpy can
            convert.
        inputs: what the model takes.
        select: applied to each item first, for streams of `(input, label)` and the like.

    Raises:
        BatchError: as `bn_ops.core.signature.check_batch`, naming batch and input.
        OptionError: the stream is not iterable.
    """
    if isinstance(items, np.ndarray | str | bytes | Mapping):
        raise OptionError(
            f"batches= takes an iterable of batches, got one {type(items).__name__}: "
            "wrap it in a list, [array], or cut it into batches"
        )
    for number, item in enumerate(items):
        arrays = _named(item if select is None else select(item), inputs, number)
        check_batch(inputs, arrays, batch=number)
        yield arrays


def _named(item: Any, inputs: Sequence[TensorInfo], number: int) -> Batch:
    names = [info.name for info in inputs]
    if isinstance(item, Mapping):
        return {str(name): as_array(value) for name, value in item.items()}
    values = list(item) if isinstance(item, tuple | list) else [item]
    if len(values) != len(names):
        raise BatchInputError(
            f"batch {number} holds {len(values)} arrays, the model takes {len(names)}: {names}. "
            "For (input, label) pairs give select=lambda item: item[0]",
            batch=number,
        )
    return {name: as_array(value) for name, value in zip(names, values, strict=True)}


def as_array(value: Any) -> NDArray[np.generic]:
    """Convert an array or tensor, on whatever device, to numpy."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        # A torch tensor, known by its method: this module must not import torch.
        value = value.detach().cpu()
    try:
        if str(getattr(value, "dtype", "")) == "torch.bfloat16":
            return _bfloat16(value)
        return np.asarray(value)
    except Exception as error:
        raise InputError(f"cannot turn a {type(value).__name__} into an array: {error}") from error


def _bfloat16(tensor: Any) -> NDArray[np.generic]:
    """View a torch tensor's bits as the type that numpy lacks and onnx brings along."""
    import ml_dtypes  # noqa: PLC0415 - the light modules of this package load without it

    bits = tensor.contiguous().view(_int16_of(tensor))
    return np.asarray(bits).view(ml_dtypes.bfloat16)


def _int16_of(tensor: Any) -> Any:
    """Return torch.int16 without importing torch."""
    return sys.modules[type(tensor).__module__.partition(".")[0]].int16
