"""Observe a module's layers: eval mode and a pre-hook on each, inside a context."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from bn_ops.engines.torch.layers import TorchLayer, adopt
from bn_ops.engines.torch.thread_state import ThreadState
from bn_ops.errors import ModelUnsupportedError
from bn_ops.torch_modules.module_state import Snapshot, set_eval

__all__ = ["OnInput", "fits", "observed"]

# A layer's input has at least the axes (N, C).
_MIN_RANK = 2

OnInput = Callable[[TorchLayer, torch.Tensor], None]
"""Receives a layer and its input at each call, before the layer normalizes."""


@contextmanager
def observed(
    module: torch.nn.Module, layers: Iterable[TorchLayer], on_input: OnInput
) -> Iterator[None]:
    """Put the tree in eval mode and observe the layers; restore everything on exit.

    Dropout is off. Modes, hooks, attributes, buffers and the thread's torch state are restored bit
    for bit, also after an exception.
    """
    state = ThreadState.current()
    thread = threading.get_ident()
    with ExitStack() as stack:
        stack.callback(state.apply)
        stack.callback(Snapshot(module).restore)
        if _is_compiled(module):
            # A compiled forward would bypass the hooks.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        state.neutral().apply()
        set_eval(module)
        adopt(layers)
        for layer in layers:
            if layer.functional:
                continue
            # Registered last, so that it sees the results of the caller's own pre-hooks.
            hook = _hook(layer, on_input, thread)
            layer.module.register_forward_pre_hook(hook, with_kwargs=True)
        yield


def _hook(layer: TorchLayer, on_input: OnInput, thread: int) -> Callable[..., None]:
    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            raise ModelUnsupportedError(
                f"layer {layer.name!r} was called from another thread (DataParallel?): "
                "recalibrate the module on one device, outside of its wrapper"
            )
        x = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(x, torch.Tensor) and fits(layer, x):
            _check_storage(layer, x)
            on_input(layer, x)

    return hook


def fits(layer: TorchLayer, x: torch.Tensor) -> bool:
    """Return whether the layer accepts this input; for others the layer itself raises."""
    return x.ndim >= _MIN_RANK and x.shape[1] == layer.mean.numel() and x.numel() > 0


def _check_storage(layer: TorchLayer, x: torch.Tensor) -> None:
    try:
        x.data_ptr()
    except RuntimeError as error:
        raise ModelUnsupportedError(
            f"layer {layer.name!r} was called inside a transformation of torch.func (vmap, grad), "
            "where its input has no storage: call it outside of the transformation"
        ) from error


def _is_compiled(module: torch.nn.Module) -> bool:
    return any(
        hasattr(child, "_orig_mod") or getattr(child, "_compiled_call_impl", None) is not None
        for child in module.modules()
    )
