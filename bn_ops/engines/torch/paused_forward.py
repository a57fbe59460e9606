"""The forward of one batch as a coroutine (greenlet) that pauses at layers."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import greenlet  # type: ignore[import-untyped]

from bn_ops.core.moments import Moments
from bn_ops.engines.torch.layers import TorchLayer
from bn_ops.engines.torch.thread_state import ThreadState
from bn_ops.torch_modules.arguments import Item

__all__ = ["PausedForward"]


class PausedForward:
    """The forward of one batch, which can be paused and resumed at layers.

    Attributes:
        item: the batch.
        waits_at: the layer at which it is paused; None while it runs and after its end.
        moments: the moments of that layer's input.
        visited: the layers that it has reached, in order.
    """

    def __init__(
        self,
        item: Item,
        forward: Callable[[Item], None],
        *,
        inside: ThreadState,
        outside: ThreadState,
    ) -> None:
        self.item = item
        self.waits_at: TorchLayer | None = None
        self.moments: Moments | None = None
        self.visited: list[TorchLayer] = []
        self._forward = forward
        self._inside, self._outside = inside, outside
        self._greenlet = greenlet.greenlet(self._run)
        # A greenlet starts with an empty context, which would lose numpy's error state and others.
        self._greenlet.gr_context = contextvars.copy_context()

    @property
    def finished(self) -> bool:
        """Whether the forward has ended."""
        return bool(self._greenlet.dead)

    def resume(self) -> None:
        """Run to the next pause or the end; called from outside the forward."""
        self.waits_at = self.moments = None
        self._greenlet.parent = greenlet.getcurrent()
        self._greenlet.switch()

    def wait(self, layer: TorchLayer, moments: Moments) -> None:
        """Pause at a layer until resumed; called from inside the forward."""
        self.waits_at, self.moments = layer, moments
        parent = self._greenlet.parent
        assert parent is not None
        parent.switch()

    def abandon(self) -> None:
        """End the paused forward, running its `finally` clauses."""
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.parent = greenlet.getcurrent()
            self._greenlet.throw(greenlet.GreenletExit)

    def _run(self) -> None:
        self._inside.apply()
        try:
            self._forward(self.item)
        finally:
            self._outside.apply()
