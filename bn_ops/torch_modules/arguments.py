"""From one item of a stream to one call of the module: device, finiteness, signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from bn_ops.core.batches import Select
from bn_ops.core.signature import all_finite, not_finite
from bn_ops.errors import (
    BatchInputError,
    BatchShapeError,
    BnOpsError,
    EngineError,
    OptionError,
)

__all__ = [
    "Call",
    "Item",
    "as_arguments",
    "device_of",
    "items_of",
    "key_word",
    "run_item",
    "to_tensors",
]

Call = Callable[[torch.nn.Module, Any], object]
"""Runs the module on one batch; what it returns counts only where outputs are compared."""

_OUT_OF_MEMORY = (
    ". The activations of every batch wait at a layer until all have reached it: use fewer "
    "samples, a smaller budget.memory_bytes on the CPU, or move the module there, where what waits "
    "is spilled to files"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One batch of the stream, ready to be run.

    Attributes:
        index: position in the stream, from 0.
        value: the batch; arrays have become tensors on the module's device.
        samples: first-axis length of its first tensor.
    """

    index: int
    value: Any
    samples: int


def items_of(
    module: torch.nn.Module, batches: Any, *, select: Select | None, adapt: bool
) -> Iterator[Item]:
    """Read a stream once, checking each batch before anything is counted.

    Args:
        module: tells the device.
        batches: iterable of whatever the call takes.
        select: applied to each item first.
        adapt: turn numpy arrays into tensors and move tensors to the module's device; off when
            the caller runs the module in a way of their own.

    Raises:
        OptionError: no iterable of batches.
        BatchNotFiniteError: NaN or Inf in a batch.
        BatchShapeError: a batch without a sample.
        BatchInputError: a batch without any tensor, or one that does not fit forward.
    """
    if isinstance(batches, torch.Tensor | np.ndarray | str | bytes | Mapping):
        raise OptionError(
            f"batches= takes an iterable of batches, got one {type(batches).__name__}: "
            "wrap it in a list, [x], or cut it into batches"
        )
    for index, raw in enumerate(batches):
        value = raw if select is None else select(raw)
        if adapt:
            value = to_tensors(module, value)
            _check_signature(module, value, index)
        samples = _checked(value, index)
        if samples is None and adapt:
            raise BatchInputError(
                f"batch {index} holds no tensor with a first axis, only {type(value).__name__}",
                batch=index,
            )
        # A value that only the caller's own call can read counts as one sample.
        yield Item(index=index, value=value, samples=samples or 1)


def to_tensors(module: torch.nn.Module, value: Any) -> Any:
    """Turn the arrays of a nested value into tensors, and move all to the module's device."""
    device = device_of(module)
    return pytree.tree_map(lambda leaf: _as_tensor(leaf, device), value)


def device_of(module: torch.nn.Module) -> torch.device | None:
    """Return where the module's first tensor lies; None for a module without any."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


def _as_tensor(leaf: Any, device: torch.device | None) -> Any:
    if isinstance(leaf, np.ndarray) and leaf.dtype.name == "bfloat16":
        # numpy has no such type of its own, and torch does not know ml_dtypes'.
        leaf = torch.from_numpy(leaf.view(np.int16).copy()).view(torch.bfloat16)
    elif isinstance(leaf, np.ndarray):
        # torch warns about arrays that it must not write to; it is not going to.
        leaf = torch.from_numpy(leaf if leaf.flags.writeable else leaf.copy())
    return leaf.to(device) if isinstance(leaf, torch.Tensor) and device is not None else leaf


def _checked(value: Any, index: int) -> int | None:
    """Check every tensor of a batch; return its number of samples, None where there is none."""
    samples: int | None = None
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        if not isinstance(leaf, torch.Tensor | np.ndarray):
            continue
        name = _word(path)
        if leaf.ndim and samples is None:
            samples = int(leaf.shape[0])
        if 0 in leaf.shape:
            raise BatchShapeError(
                f"batch {index}, input {name!r} has no sample (shape {list(leaf.shape)})",
                batch=index,
                input_name=name,
            )
        if not _is_finite(leaf):
            raise not_finite(name, batch=index)
    return samples


def _is_finite(leaf: torch.Tensor | NDArray[np.generic]) -> bool:
    if isinstance(leaf, np.ndarray):
        return all_finite(leaf)
    if not (leaf.is_floating_point() or leaf.is_complex()):
        return True
    return bool(torch.isfinite(leaf).all())


def _word(path: tuple[Any, ...]) -> str:
    return ".".join(key_word(key) for key in path) or "input"


def key_word(key: Any) -> str:
    """Return a pytree key's own word: a dict key, a field name, or an index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def as_arguments(module: torch.nn.Module, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read a value as the arguments of one call.

    A tuple or list is positional arguments; a mapping is named arguments where all its keys are
    parameters of forward, and one positional argument where not; anything else is one argument.
    """
    if isinstance(value, Mapping):
        named = _names_parameters(module, value)
        return ((), dict(value)) if named else ((value,), {})
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return tuple(value), {}
    return (value,), {}


def _names_parameters(module: torch.nn.Module, value: Mapping[Any, Any]) -> bool:
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return all(isinstance(key, str) for key in value)
    return all(key in parameters for key in value)


def _check_signature(module: torch.nn.Module, value: Any, index: int) -> None:
    args, kwargs = as_arguments(module, value)
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise BatchInputError(
            f"batch {index} does not fit {type(module).__name__}.forward: {error}. "
            "For (input, label) pairs give select=lambda item: item[0]; for any other call give "
            "call=lambda model, batch: ...",
            batch=index,
        ) from error


def run_item(module: torch.nn.Module, item: Item, call: Call | None) -> object:
    """Run the module on a batch, in the caller's way or as its arguments.

    Raises:
        EngineError: the forward failed; the cause is chained. Errors of this package that arise
            where a layer is watched pass as they are.
    """
    try:
        if call is not None:
            return call(module, item.value)
        args, kwargs = as_arguments(module, item.value)
        return module(*args, **kwargs)
    except BnOpsError:
        raise
    except Exception as error:
        raise _forward_error(item, error) from error


def _forward_error(item: Item, error: Exception) -> EngineError:
    text = f"{type(error).__name__}: {error}"
    memory = isinstance(error, MemoryError) or "alloc" in text or "out of memory" in text
    return EngineError(
        f"batch {item.index}: the module's forward failed: {text}{_OUT_OF_MEMORY if memory else ''}"
    )
