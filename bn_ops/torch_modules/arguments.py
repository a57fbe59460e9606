"""Turn one item of a stream into one call of a module.

Covers conversion to tensors on the module's device, the checks before a batch is counted, and the
names under which an exported model takes the same arguments.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from bn_ops.core.batches import (
    LABEL_NAMES,
    Select,
    as_array,
    in_batches,
    iterate,
    looks_like_labels,
)
from bn_ops.core.signature import Batch, all_finite, not_finite
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
    "argument_names",
    "as_arguments",
    "device_of",
    "first_samples",
    "key_name",
    "named_arrays",
    "read_items",
    "run_item",
    "to_tensors",
    "unique_names",
]

Call = Callable[[torch.nn.Module, Any], object]
"""Runs the module on one batch; its return value is used only where outputs are compared."""

_OUT_OF_MEMORY_ADVICE = (
    ". The activations of all batches are held at a layer until every batch has reached it: use "
    "fewer samples, or a smaller budget.memory_bytes on the CPU, or move the module to the CPU, "
    "where waiting activations are spilled to files"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One batch of the stream, ready to run.

    Attributes:
        index: position in the stream, from 0.
        value: the batch; arrays have been converted to tensors on the module's device.
        samples: first-axis length of its first tensor.
    """

    index: int
    value: Any
    samples: int


def read_items(
    module: torch.nn.Module, batches: Any, *, select: Select | None, convert: bool
) -> Iterator[Item]:
    """Read a stream once, checking each batch before it is counted.

    Args:
        module: determines the device and the signature of the call.
        batches: iterable of the arguments that the module's forward or the caller's `call` takes,
            or a data set as for `bn_ops.core.batches.in_batches`.
        select: applied to each item first.
        convert: turn numpy arrays into tensors and move tensors to the module's device; False
            where the caller runs the module with a function of their own.

    Raises:
        OptionError: `batches` is not an iterable of batches.
        BatchNotFiniteError: NaN or Inf in a batch.
        BatchShapeError: a batch without samples.
        BatchInputError: a batch without tensors, or one that does not match forward's parameters.
    """
    batches = in_batches(batches)
    if isinstance(batches, torch.Tensor | np.ndarray | str | bytes | Mapping):
        raise OptionError(
            f"batches= takes an iterable of batches, got one {type(batches).__name__}: "
            "wrap it in a list, [x], or cut it into batches"
        )
    for index, raw in enumerate(iterate(batches)):
        value = raw if select is None else select(raw)
        if convert:
            value = _without_labels(module, value)
            value = to_tensors(module, value)
            _check_signature(module, value, index)
        samples = _checked(value, index)
        if samples is None and convert:
            raise BatchInputError(
                f"batch {index} holds no tensor with a first axis, only {type(value).__name__}",
                batch=index,
            )
        # A value that only the caller's `call` can interpret counts as one sample.
        yield Item(index=index, value=value, samples=samples or 1)


def first_samples(item: Item, count: int) -> Item:
    """Copy the first `count` samples of a batch."""

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        per_sample = leaf.ndim and leaf.shape[0] == item.samples
        return (leaf[:count] if per_sample else leaf).detach().clone()

    samples = min(count, item.samples)
    return replace(item, value=pytree.tree_map(cut, item.value), samples=samples)


def to_tensors(module: torch.nn.Module, value: Any) -> Any:
    """Return a nested value with arrays as tensors and all tensors on the module's device."""
    device = device_of(module)
    return pytree.tree_map(lambda leaf: _as_tensor(leaf, device), value)


def device_of(module: torch.nn.Module) -> torch.device | None:
    """Return the device of the module's first tensor, or None for a module without tensors."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


def _as_tensor(leaf: Any, device: torch.device | None) -> Any:
    if isinstance(leaf, np.ndarray) and leaf.dtype.name == "bfloat16":
        # numpy has no bfloat16, and torch does not convert the one of ml_dtypes.
        leaf = torch.from_numpy(leaf.view(np.int16).copy()).view(torch.bfloat16)
    elif isinstance(leaf, np.ndarray):
        # Copied because torch warns about read-only arrays, although nothing writes to this one.
        leaf = torch.from_numpy(leaf if leaf.flags.writeable else leaf.copy())
    return leaf.to(device) if isinstance(leaf, torch.Tensor) and device is not None else leaf


def _checked(value: Any, index: int) -> int | None:
    """Check every tensor of a batch; return the number of samples, or None without tensors."""
    samples: int | None = None
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        if not isinstance(leaf, torch.Tensor | np.ndarray):
            continue
        name = _path_name(path)
        if leaf.ndim and samples is None:
            samples = int(leaf.shape[0])
        if 0 in leaf.shape:
            raise BatchShapeError(
                f"batch {index}, input {name!r} has no samples (shape {list(leaf.shape)})",
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
    # NaN and infinity stay in a sum, which takes a fiftieth of the time; it can also overflow.
    return bool(torch.isfinite(leaf.sum())) or bool(torch.isfinite(leaf).all())


def _path_name(path: tuple[Any, ...]) -> str:
    return ".".join(key_name(key) for key in path) or "input"


def key_name(key: Any) -> str:
    """Return the name of a pytree key: a dict key, a field name, or an index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def as_arguments(module: torch.nn.Module, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a value as positional and keyword arguments of a call.

    A tuple or list holds positional arguments. A mapping holds keyword arguments if all its keys
    are parameters of forward, otherwise it is one positional argument, as is any other value.
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


def _without_labels(module: torch.nn.Module, value: Any) -> Any:
    """Return a batch without labels that forward does not take.

    Labels are the last item of a tuple, or the entries of a mapping under a usual name.
    """
    parameters = inspect.signature(module.forward).parameters
    if isinstance(value, Mapping):
        extra = {key for key in value if key in LABEL_NAMES and key not in parameters}
        if not extra or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return value
        return {key: entry for key, entry in value.items() if key not in extra}
    if not isinstance(value, tuple | list) or hasattr(value, "_fields") or not value:
        return value
    if _fits(module, value) or not looks_like_labels(value[-1]) or not _fits(module, value[:-1]):
        return value
    return value[:-1]


def _fits(module: torch.nn.Module, value: Any) -> bool:
    args, kwargs = as_arguments(module, value)
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _check_signature(module: torch.nn.Module, value: Any, index: int) -> None:
    args, kwargs = as_arguments(module, value)
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise BatchInputError(
            f"batch {index} does not fit {type(module).__name__}.forward: {error}. "
            "For (input, label) pairs pass select=lambda item: item[0]; for any other call pass "
            "call=lambda model, batch: ...",
            batch=index,
        ) from error


def run_item(module: torch.nn.Module, item: Item, call: Call | None) -> object:
    """Run the module on a batch, through `call` if given, and return its output.

    Raises:
        EngineError: the forward failed; the cause is chained. Errors of this package, which hooks
            on layers raise, propagate unchanged.
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
    advice = _OUT_OF_MEMORY_ADVICE if memory else ""
    return EngineError(f"batch {item.index}: the module's forward failed: {text}{advice}")


def named_arrays(module: torch.nn.Module, item: Item) -> Batch:
    """Return the tensors of a batch as arrays, named as `bn_ops.export` names the inputs."""
    args, kwargs = as_arguments(module, item.value)
    leaves = pytree.tree_leaves((args, kwargs))
    names = argument_names(module, args, kwargs)
    return {
        name: as_array(leaf)
        for name, leaf in zip(names, leaves, strict=True)
        if isinstance(leaf, torch.Tensor)
    }


def argument_names(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, ...]:
    """Return a name per leaf of (args, kwargs): its last dict key, else parameter and position."""
    positional = _positional_names(inspect.signature(module.forward).bind(*args, **kwargs))
    paths = [path for path, _ in pytree.tree_flatten_with_path((args, kwargs))[0]]
    named: list[tuple[str, ...]] = []
    for path in paths:
        argument: Any = path[1]
        first = positional[argument.idx] if hasattr(argument, "idx") else argument.key
        named.append((first, *(key_name(key) for key in path[2:])))
    return unique_names(named)


def _positional_names(bound: inspect.BoundArguments) -> list[str]:
    names: list[str] = []
    for parameter in bound.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            count = len(bound.arguments.get(parameter.name, ()))
            names.extend(f"{parameter.name}_{i}" for i in range(count))
        else:
            names.append(parameter.name)
    return names


def unique_names(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return each path's last component where it is unique, else all components joined by `_`."""
    short = [path[-1] if not path[-1].isdigit() else "_".join(path) for path in paths]
    counts = Counter(short)
    seen: Counter[str] = Counter()
    result = []
    for last, path in zip(short, paths, strict=True):
        name = last if counts[last] == 1 else "_".join(path)
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)
