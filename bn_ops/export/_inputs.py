"""One example call of a module: its arguments, their names, and which axes count samples."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bn_ops.errors import ExportError, OptionError

__all__ = ["ExampleCall", "leaf_name", "unique_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleCall:
    """Arguments for one call.

    Attributes:
        args: positional arguments.
        kwargs: named arguments.
        names: one name per leaf of (args, kwargs), in the order of flattening.
        dynamic: one per leaf: whether the leaf's first axis counts samples and stays free.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    dynamic: tuple[bool, ...]

    @classmethod
    def of(cls, module: torch.nn.Module, example: Any, *, dynamic_batch: bool) -> ExampleCall:
        """Read an example as a call of `module.forward`.

        Raises:
            OptionError: the example holds no tensor, or does not fit the signature of forward.
        """
        args, kwargs = _as_call(module, example)
        bound = _bind(module, args, kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim]
        if not sizes:
            raise OptionError(
                "example_inputs holds no tensor with a first axis; pass one example batch, "
                "for instance torch.zeros(2, 3, 224, 224)"
            )
        dynamic = tuple(dynamic_batch and _counts_samples(leaf, sizes[0]) for leaf in leaves)
        if sizes[0] == 1 and dynamic_batch:
            args, kwargs = _doubled((args, kwargs), dynamic)
        return cls(
            args=args, kwargs=kwargs, names=_leaf_names(bound, args, kwargs), dynamic=dynamic
        )

    def dynamic_shapes(self, module: torch.nn.Module) -> dict[str, Any]:
        """Say which axes are free, in the form that `torch.export.export` takes."""
        spec = pytree.tree_structure((self.args, self.kwargs))
        free = torch.export.Dim.DYNAMIC
        shapes = [{0: free} if is_free else None for is_free in self.dynamic]
        args, kwargs = pytree.tree_unflatten(shapes, spec)
        return _by_parameter(module, args, kwargs)


def _as_call(module: torch.nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        if _names_parameters(module, example):
            return (), dict(example)
        return (dict(example),), {}
    if isinstance(example, tuple | list) and not hasattr(example, "_fields"):
        return tuple(example), {}
    return (example,), {}


def _names_parameters(module: torch.nn.Module, example: Mapping[Any, Any]) -> bool:
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return all(isinstance(key, str) for key in example)
    return all(key in parameters for key in example)


def _bind(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    try:
        return inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise OptionError(
            f"example_inputs does not fit {type(module).__name__}.forward: {error}"
        ) from error


def _counts_samples(leaf: Any, samples: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == samples


def _doubled(
    call: tuple[tuple[Any, ...], dict[str, Any]], dynamic: tuple[bool, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat the one sample: torch.export takes an axis of size 1 for a constant."""
    leaves, spec = pytree.tree_flatten(call)
    doubled = [
        torch.cat([leaf, leaf]) if free else leaf
        for leaf, free in zip(leaves, dynamic, strict=True)
    ]
    args, kwargs = pytree.tree_unflatten(doubled, spec)
    return args, kwargs


def _by_parameter(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Key per-argument values by parameter name; variadic ones keep their own nesting."""
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _leaf_names(
    bound: inspect.BoundArguments, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, ...]:
    """Name each leaf by its last dict key, else by its parameter and position."""
    positional = _positional_names(bound)
    paths = [path for path, _ in pytree.tree_flatten_with_path((args, kwargs))[0]]
    named: list[tuple[str, ...]] = []
    for path in paths:
        argument: Any = path[1]
        first = positional[argument.idx] if hasattr(argument, "idx") else argument.key
        named.append((first, *(leaf_name(key) for key in path[2:])))
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


def leaf_name(key: Any) -> str:
    """Return a pytree key's own word: a dict key, a field name, or an index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise ExportError(f"an argument has a structure that cannot be named: {key!r}")


def unique_names(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Shorten each path to its last word where that is a unique word, else join it all by `_`."""
    short = [path[-1] if not path[-1].isdigit() else "_".join(path) for path in paths]
    counts = Counter(short)
    names = [
        word if counts[word] == 1 else "_".join(path)
        for word, path in zip(short, paths, strict=True)
    ]
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)
