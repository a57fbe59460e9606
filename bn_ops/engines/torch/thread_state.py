"""Save and restore torch's per-thread state when switching between paused forwards.

One batch may pause inside `torch.autocast` or `torch.inference_mode` while the next one starts
outside it, so each switch saves the batch's state and applies the neutral one. Covered are grad
mode, inference mode, autocast per device type with its dtype, and the autocast cache. Modes on
torch's dispatch and function stacks (such as `with torch.device(...)`) are not covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

__all__ = ["ThreadState", "parked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState:
    """Torch state of the calling thread.

    Attributes:
        grad: whether gradients are recorded.
        inference: whether inference mode is on.
        autocast: (device type, enabled, dtype) of each device type of this machine.
        autocast_cache: whether casts of weights are cached.
    """

    grad: bool
    inference: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    autocast_cache: bool

    @classmethod
    def current(cls) -> ThreadState:
        """Return the calling thread's state."""
        return cls(
            grad=torch.is_grad_enabled(),
            inference=torch.is_inference_mode_enabled(),
            autocast=tuple(
                (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
                for device in _device_types()
            ),
            autocast_cache=torch.is_autocast_cache_enabled(),
        )

    def neutral(self) -> ThreadState:
        """Return this state without gradients and without autocast."""
        off = tuple((device, False, dtype) for device, _, dtype in self.autocast)
        return replace(self, grad=False, autocast=off)

    def without_grad(self) -> ThreadState:
        """Return this state without gradients."""
        return replace(self, grad=False)

    def apply(self) -> None:
        """Apply everything except inference mode, which only a context manager can set."""
        torch.set_grad_enabled(self.grad)
        for device, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)


def _device_types() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


@contextmanager
def parked(neutral: ThreadState) -> Iterator[None]:
    """Apply the neutral state; restore the previous one on exit."""
    own = ThreadState.current()
    if own == neutral:
        # Each switch leaves the thread in the neutral state, so nothing is to be restored either.
        yield
        return
    if own.inference == neutral.inference:
        neutral.apply()
        try:
            yield
        finally:
            own.apply()
        return
    # The guard restores what it replaced on exit, so guards of several coroutines need not be
    # nested: each switch leaves the thread in the neutral state.
    with torch.inference_mode(neutral.inference):
        neutral.apply()
        try:
            yield
        finally:
            own.apply()
