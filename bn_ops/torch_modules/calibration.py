"""The first samples of a stream, as named arrays that an exported model takes."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bn_ops.core.batches import as_array
from bn_ops.core.signature import Batch
from bn_ops.torch_modules.arguments import Item, as_arguments, key_word

__all__ = ["argument_names", "named_arrays", "unique_names"]


def named_arrays(module: torch.nn.Module, item: Item) -> Batch:
    """Return the tensors of a batch as arrays, under the names that `bn_ops.export` gives them."""
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
    """Name each leaf of (args, kwargs) by its last dict key, else by parameter and position."""
    positional = _positional_names(inspect.signature(module.forward).bind(*args, **kwargs))
    paths = [path for path, _ in pytree.tree_flatten_with_path((args, kwargs))[0]]
    named: list[tuple[str, ...]] = []
    for path in paths:
        argument: Any = path[1]
        first = positional[argument.idx] if hasattr(argument, "idx") else argument.key
        named.append((first, *(key_word(key) for key in path[2:])))
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
    """Shorten each path to its last word where that is a unique word, else join it all by `_`."""
    short = [path[-1] if not path[-1].isdigit() else "_".join(path) for path in paths]
    counts = Counter(short)
    seen: Counter[str] = Counter()
    result = []
    for word, path in zip(short, paths, strict=True):
        name = word if counts[word] == 1 else "_".join(path)
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)
