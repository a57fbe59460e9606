"""Convert a caller's stream into checked batches of named arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import Batch, TensorInfo, check_batch
from bn_ops.errors import BatchInputError, InputError, OptionError

__all__ = [
    "DATA_SET_BATCH",
    "LABEL_NAMES",
    "Select",
    "as_array",
    "in_batches",
    "iterate",
    "looks_like_labels",
    "named_batches",
]

LABEL_NAMES = frozenset({"label", "labels", "target", "targets", "label_ids", "y"})
"""Names under which a mapping holds labels, unless the model has an input of that name."""

DATA_SET_BATCH = 32
"""Samples in a batch that is cut from a memory map or a data set of samples; the client's, too."""

Select = Callable[[Any], Any]
"""Returns the part of a stream item that is the model's input."""


def named_batches(
    items: Iterable[Any], inputs: Sequence[TensorInfo], *, select: Select | None = None
) -> Iterator[Batch]:
    """Yield each item of a stream as a checked batch, reading the stream once.

    Args:
        items: arrays or tensors (for a model with one input), tuples or lists in the order of the
            model's inputs, or mappings from input name to array. Tensors of any library are
            accepted if numpy can convert them. Labels, as the last item of a tuple or under a name
            of `LABEL_NAMES`, are left out. Data sets as for `in_batches`.
        inputs: the model's inputs.
        select: applied to each item first, for example for streams of `(input, label)` pairs.

    Raises:
        BatchError: as `bn_ops.core.signature.check_batch`, naming batch and input.
        OptionError: `items` is not iterable, or one array or mapping instead of batches.
    """
    items = in_batches(items)
    if isinstance(items, np.ndarray | str | bytes | Mapping):
        raise OptionError(
            f"batches= takes an iterable of batches, got one {type(items).__name__}: "
            "wrap it in a list, [array], or cut it into batches"
        )
    for number, item in enumerate(iterate(items)):
        arrays = _named(item if select is None else select(item), inputs, number)
        check_batch(inputs, arrays, batch=number)
        yield arrays


def iterate(batches: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over batches.

    Raises:
        OptionError: `batches` is not iterable.
    """
    try:
        return iter(batches)
    except TypeError as error:
        raise OptionError(
            f"batches= takes an iterable of batches, got {type(batches).__name__}"
        ) from error


def in_batches(stream: Any) -> Any:
    """Return a data set of another library, or a `numpy.memmap` of samples, as batches of arrays.

    The items of a Hugging Face `datasets.Dataset` and of a memory map are samples, which are read
    in batches of 32; those of a `tf.data.Dataset` are its batches. They are recognized by their
    methods, so that neither library is imported. Any other stream is returned as it is.
    """
    if hasattr(stream, "iter") and hasattr(stream, "with_format"):
        return stream.with_format("numpy").iter(batch_size=DATA_SET_BATCH)
    if hasattr(stream, "as_numpy_iterator"):
        return stream.as_numpy_iterator()
    if isinstance(stream, np.memmap):
        starts = range(0, len(stream), DATA_SET_BATCH)
        return (stream[start : start + DATA_SET_BATCH] for start in starts)
    return stream


def _named(item: Any, inputs: Sequence[TensorInfo], number: int) -> Batch:
    names = [info.name for info in inputs]
    if isinstance(item, Mapping):
        return {
            str(name): as_array(value)
            for name, value in item.items()
            if name in names or name not in LABEL_NAMES
        }
    values = list(item) if isinstance(item, tuple | list) else [item]
    if len(values) == len(names) + 1 and looks_like_labels(values[-1]):
        values.pop()
    if len(values) != len(names):
        raise BatchInputError(
            f"batch {number} holds {len(values)} arrays, the model takes {len(names)}: {names}. "
            "For (input, label) pairs pass select=lambda item: item[0]",
            batch=number,
        )
    return {name: as_array(value) for name, value in zip(names, values, strict=True)}


def looks_like_labels(value: Any) -> bool:
    """Return whether the last item of a batch can be its labels.

    An array of floating-point numbers with more than one axis cannot be.
    """
    shape = getattr(value, "shape", None)
    return shape is None or len(shape) <= 1 or "float" not in str(getattr(value, "dtype", ""))


def as_array(value: Any) -> NDArray[np.generic]:
    """Convert an array or a tensor on any device to numpy."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        # A torch tensor, recognized by its method: this module must not import torch.
        value = value.detach().cpu()
    try:
        if str(getattr(value, "dtype", "")) == "torch.bfloat16":
            return _bfloat16(value)
        return np.asarray(value)
    except Exception as error:
        raise InputError(f"cannot turn a {type(value).__name__} into an array: {error}") from error


def _bfloat16(tensor: Any) -> NDArray[np.generic]:
    """Convert a torch bfloat16 tensor to the bfloat16 of ml_dtypes, which numpy itself lacks."""
    import ml_dtypes  # noqa: PLC0415 - light modules must load without it

    bits = tensor.contiguous().view(_int16_of(tensor))
    return np.asarray(bits).view(ml_dtypes.bfloat16)


def _int16_of(tensor: Any) -> Any:
    """Return torch.int16 without importing torch."""
    return sys.modules[type(tensor).__module__.partition(".")[0]].int16
