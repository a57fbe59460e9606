"""Calls of `torch.nn.functional.batch_norm` with statistics that the network owns.

Such a call is not a module and becomes visible only when the network runs. If a network holds
vectors that may be statistics and belong to no known layer, its first sample is run once to find
the calls; each call is a layer, named as `bn_ops.export` names it. Other networks pay no cost.
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
from bn_ops.engines.torch.observation import OnInput, fits, observed
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

_TRAINING = "is called in training mode by its module, so it normalizes by each batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class _NormCall:
    """The relevant arguments of one call."""

    x: torch.Tensor
    mean: torch.Tensor | None
    var: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    training: bool
    eps: float


class _Intercept(TorchFunctionMode):
    """Reports each functional call before it is executed."""

    def __init__(self, on_call: Callable[[_NormCall], None]) -> None:
        super().__init__()
        self._on_call = on_call

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
            # torch pops a mode off its stack while it calls the mode. A batch that pauses inside
            # the callback must leave the stack as the other batches expect it.
            with self:
                self._on_call(call)
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
    """Observes functional calls in a run; enter `watching()` around each forward.

    Create it after `adopt`, because layers are identified by the addresses of their statistics.

    Args:
        module: the root.
        layers: the layers of the run; the functional ones are observed here.
        on_input: receives their inputs.

    Attributes:
        unmatched_calls: paths of the statistics of calls that are not layers of the run.
    """

    def __init__(
        self, module: torch.nn.Module, layers: Iterable[TorchLayer], on_input: OnInput
    ) -> None:
        self._layers = {id(layer.mean): layer for layer in layers if layer.functional}
        known = find_layers(module)
        self._known = {id(layer.mean) for layer in known if layer.tracked}
        self._paths = {id(buffer): path for path, buffer in module.named_buffers()}
        self._on_input = on_input
        self._mode = _Intercept(self._on_call) if may_be_functional(module, known) else None
        self.unmatched_calls: dict[str, None] = {}

    def watching(self) -> AbstractContextManager[object]:
        """Return the context in which a forward runs."""
        return nullcontext() if self._mode is None else self._mode

    def _on_call(self, call: _NormCall) -> None:
        if call.mean is None or id(call.mean) in self._known:
            return
        layer = self._layers.get(id(call.mean))
        if layer is None:
            self.unmatched_calls[self._paths.get(id(call.mean), "(an unregistered tensor)")] = None
        elif fits(layer, call.x):
            self._on_input(layer, call.x)


def may_be_functional(module: torch.nn.Module, known: Iterable[TorchLayer]) -> bool:
    """Return whether a tree holds two vectors of equal length that no known layer owns."""
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
        # `buffers` takes 20 times as long, for every module of the network.
        for value in (*child._buffers.values(), *plain):  # noqa: SLF001
            if isinstance(value, torch.Tensor) and value.ndim == 1:
                yield value


def find_functional(
    module: torch.nn.Module, item: Item, call: Call | None, known: Sequence[TorchLayer]
) -> list[TorchLayer]:
    """Return the functional layers that one batch reaches in eval mode.

    Raises:
        EngineError: the module's forward failed.
    """
    finder = _Finder(module, {layer.name for layer in known})
    finder.seen = {id(layer.mean) for layer in known if layer.tracked}
    with observed(module, [], lambda *_: None), torch.no_grad():
        finder.follow()
        with _Intercept(finder.on_call):
            run_item(module, item, call)
    return finder.found


class _Finder:
    """Creates a layer for each functional call whose statistics are buffers of the tree."""

    def __init__(self, root: torch.nn.Module, taken: Iterable[str]) -> None:
        self._root = root
        self._buffers = {id(buffer): path for path, buffer in root.named_buffers()}
        self._parameters = {id(tensor): path for path, tensor in root.named_parameters()}
        self._taken = Counter(taken)
        self._running: list[str] = []
        self.seen: set[int] = set()
        self.found: list[TorchLayer] = []

    def follow(self) -> None:
        """Track the running module by hooks. Modified: hooks, which a snapshot restores."""
        for path, child in self._root.named_modules():
            child.register_forward_pre_hook(lambda *_, path=path: self._running.append(path))
            child.register_forward_hook(lambda *_: self._left(), always_call=True)

    def _left(self) -> None:
        self._running.pop()

    def on_call(self, call: _NormCall) -> None:
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
