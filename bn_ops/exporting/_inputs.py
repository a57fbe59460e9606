"""An example call of a module: its arguments, their names, and their sample axes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bn_ops.core.batches import as_array
from bn_ops.errors import OptionError
from bn_ops.torch_modules.arguments import argument_names, as_arguments, to_tensors

__all__ = ["ExampleCall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleCall:
    """Arguments for one call.

    Attributes:
        args: positional arguments.
        kwargs: named arguments.
        names: one name per leaf of (args, kwargs), in the order of flattening.
        dynamic: one per leaf: whether the leaf's first axis counts samples and is dynamic.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    dynamic: tuple[bool, ...]

    @classmethod
    def of(cls, module: torch.nn.Module, example: Any, *, dynamic_batch: bool) -> ExampleCall:
        """Interpret an example as a call of `module.forward`.

        Raises:
            OptionError: the example contains no tensor, or does not fit the signature of forward.
        """
        args, kwargs = as_arguments(module, to_tensors(module, without_labels(module, example)))
        _check_signature(module, args, kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim]
        if not sizes:
            raise OptionError(
                "example_inputs contains no tensor with a first axis; pass an example batch, "
                "for instance torch.zeros(2, 3, 224, 224)"
            )
        dynamic = tuple(dynamic_batch and _counts_samples(leaf, sizes[0]) for leaf in leaves)
        if sizes[0] == 1 and dynamic_batch:
            args, kwargs = _doubled((args, kwargs), dynamic)
        return cls(
            args=args, kwargs=kwargs, names=argument_names(module, args, kwargs), dynamic=dynamic
        )

    def dynamic_shapes(self, module: torch.nn.Module) -> dict[str, Any]:
        """Return the dynamic axes in the form that `torch.export.export` takes."""
        spec = pytree.tree_structure((self.args, self.kwargs))
        free = torch.export.Dim.DYNAMIC
        shapes = [{0: free} if is_free else None for is_free in self.dynamic]
        args, kwargs = pytree.tree_unflatten(shapes, spec)
        return _by_parameter(module, args, kwargs)

    def arrays(self) -> dict[str, Any]:
        """Return the arguments as arrays, by name."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return {
            name: as_array(leaf)
            for name, leaf in zip(self.names, leaves, strict=True)
            if isinstance(leaf, torch.Tensor)
        }


def without_labels(module: torch.nn.Module, example: Any) -> Any:
    """Return the example without labels, from which models of transformers compute a loss.

    A label is an optional parameter of `forward` whose name contains `label`, or is
    `start_positions` or `end_positions`. Source: `transformers.utils.find_labels`.
    """
    if not isinstance(example, Mapping):
        return example
    parameters = inspect.signature(module.forward).parameters
    labels = {
        name
        for name, parameter in parameters.items()
        if parameter.default is None
        and ("label" in name or name in {"start_positions", "end_positions"})
    }
    return {name: value for name, value in example.items() if name not in labels}


def _check_signature(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise OptionError(
            f"example_inputs does not fit {type(module).__name__}.forward: {error}"
        ) from error


def _counts_samples(leaf: Any, samples: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == samples


def _doubled(
    call: tuple[tuple[Any, ...], dict[str, Any]], dynamic: tuple[bool, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat the single sample: torch.export treats an axis of size 1 as constant."""
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
    """Key per-argument values by parameter name; variadic ones keep their nesting."""
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
