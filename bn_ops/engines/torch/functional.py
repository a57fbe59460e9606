"""Calls of `torch.nn.functional.batch_norm` with statistics of the network's own.

Such a call is no module, and nothing but running the network shows it. Where a network holds
vectors that might be statistics and belong to no known layer, its first sample is run once to find
the calls; each is a layer under the name that `bn_ops.export` gives it. Any other network is left
alone, so nothing is spent on it.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bn_ops.engines.torch.layers import ROOT_LAYER, TorchLayer, find_layers
from bn_ops.engines.torch.observation import Arrival, fits, observed
from bn_ops.torch_modules.arguments import Call, Item, run_item
from bn_ops.torch_modules.frozen_batchnorm import FrozenForm

__all__ = ["FunctionalCalls", "find_functional", "may_be_functional"]

_SIGNATURE = inspect.signature(functional.batch_norm)
_OPERATOR = (
    "input",
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "training",
    "momentum",
    "eps",
    "cudnn_enabled",
)
_PAIR = 2

_TRAINING = "is called in training mode by its module, so it normalises by each batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class _NormCall:
    """The arguments of one call that count."""

    x: torch.Tensor
    mean: torch.Tensor | None
    var: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    training: bool
    eps: float


class _Intercept(TorchFunctionMode):
    """Tells each functional call before it is made."""

    def __init__(self, told: Callable[[_NormCall], None]) -> None:
        super().__init__()
        self._told = told

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        call = _read(func, args, given)
        if call is not None:
            # torch takes a mode off its stack while it asks it. A batch that waits in there must
            # leave the stack as the others expect it.
            with self:
                self._told(call)
        return func(*args, **given)


def _read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _NormCall | None:
    if func is functional.batch_norm:
        bound = _SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        found = bound.arguments
    elif func is torch.batch_norm:
        found = {**dict(zip(_OPERATOR, args, strict=False)), **kwargs}
    else:
        return None
    return _NormCall(
        x=found["input"],
        mean=found["running_mean"],
        var=found["running_var"],
        weight=found["weight"],
        bias=found["bias"],
        training=bool(found["training"]),
        eps=float(found["eps"]),
    )


class FunctionalCalls:
    """Watches functional calls in a run; enter `watching()` around each forward.

    Made when layers without statistics have been given theirs: those are known by address.

    Args:
        module: the root.
        layers: the layers of the run; those that are no modules are watched here.
        arrived: told of their inputs.

    Attributes:
        unmatched_calls: paths of statistics of calls that are no layer of the run.
    """

    def __init__(
        self, module: torch.nn.Module, layers: Iterable[TorchLayer], arrived: Arrival
    ) -> None:
        self._layers = {id(layer.mean): layer for layer in layers if layer.functional}
        known = find_layers(module)
        self._known = {id(layer.mean) for layer in known if layer.tracked}
        self._paths = {id(buffer): path for path, buffer in module.named_buffers()}
        self._arrived = arrived
        self._mode = _Intercept(self._told) if may_be_functional(module, known) else None
        self.unmatched_calls: dict[str, None] = {}

    def watching(self) -> AbstractContextManager[object]:
        """Return the context in which a forward runs."""
        return nullcontext() if self._mode is None else self._mode

    def _told(self, call: _NormCall) -> None:
        if call.mean is None or id(call.mean) in self._known:
            return
        layer = self._layers.get(id(call.mean))
        if layer is None:
            self.unmatched_calls[self._paths.get(id(call.mean), "(a tensor that is no buffer)")] = (
                None
            )
        elif fits(layer, call.x):
            self._arrived(layer, call.x)


def may_be_functional(module: torch.nn.Module, known: Iterable[TorchLayer]) -> bool:
    """Tell whether a tree holds two vectors of one length that no known layer owns."""
    owned = {id(tensor) for layer in known for tensor in layer.module.buffers(recurse=False)}
    lengths = Counter(
        tensor.numel()
        for tensor in _vectors(module)
        if id(tensor) not in owned and tensor.is_floating_point()
    )
    return any(count >= _PAIR for count in lengths.values())


def _vectors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    for child in module.modules():
        plain = child.__dict__.values()
        for value in (*child.buffers(recurse=False), *plain):
            if isinstance(value, torch.Tensor) and value.ndim == 1:
                yield value


def find_functional(
    module: torch.nn.Module, item: Item, call: Call | None, known: Sequence[TorchLayer]
) -> list[TorchLayer]:
    """Run one batch through the module in eval mode; return the functional layers that it reaches.

    Raises:
        EngineError: the module's forward failed.
    """
    finder = _Finder(module, {layer.name for layer in known})
    finder.seen = {id(layer.mean) for layer in known if layer.tracked}
    with observed(module, [], lambda *_: None), torch.no_grad():
        finder.follow()
        with _Intercept(finder.told):
            run_item(module, item, call)
    return finder.found


class _Finder:
    """Makes a layer of each functional call whose statistics are buffers of the tree."""

    def __init__(self, root: torch.nn.Module, taken: Iterable[str]) -> None:
        self._root = root
        self._buffers = {id(buffer): path for path, buffer in root.named_buffers()}
        self._parameters = {id(tensor): path for path, tensor in root.named_parameters()}
        self._taken = Counter(taken)
        self._running: list[str] = []
        self.seen: set[int] = set()
        self.found: list[TorchLayer] = []

    def follow(self) -> None:
        """Keep track of the module that is running. Modified: hooks, which a snapshot restores."""
        for path, child in self._root.named_modules():
            child.register_forward_pre_hook(lambda *_, path=path: self._running.append(path))
            child.register_forward_hook(lambda *_: self._left(), always_call=True)

    def _left(self) -> None:
        self._running.pop()

    def told(self, call: _NormCall) -> None:
        mean, var = self._buffers.get(id(call.mean)), self._buffers.get(id(call.var))
        if mean is None or var is None or id(call.mean) in self.seen:
            return
        self.seen.add(id(call.mean))
        name = (self._running[-1] if self._running else "") or ROOT_LAYER
        self._taken[name] += 1
        if self._taken[name] > 1:
            name = f"{name}#{self._taken[name]}"
        form = FrozenForm(
            mean=mean,
            var=var,
            weight=self._parameters.get(id(call.weight), ""),
            bias=self._parameters.get(id(call.bias), ""),
        )
        self.found.append(
            TorchLayer(
                name=name,
                module=self._root,
                eps=call.eps,
                form=form,
                reason=_TRAINING if call.training else None,
                functional=True,
            )
        )
