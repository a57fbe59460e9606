"""The frontier of a torch module: one coroutine per batch, stopped by pre-hooks at the layers.

Every operator runs once per batch, so exact costs one forward pass. Nothing is traced: whatever
Python the forward is made of runs as it is, batches may take different ways, and the module may
lie on any device. The activations of all batches that are alive at the frontier wait in memory up
to a budget, then in files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch

from bn_ops.core.engine import Residual
from bn_ops.core.frontier import check_finite
from bn_ops.core.moments import Moments, merge_all
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.torch.functional import FunctionalCalls
from bn_ops.engines.torch.layers import TorchLayer, write
from bn_ops.engines.torch.moments import measure_tensor
from bn_ops.engines.torch.observation import observed
from bn_ops.engines.torch.paused_forward import PausedForward
from bn_ops.engines.torch.shared_layers import SharedLayers, VisitOrder
from bn_ops.engines.torch.thread_state import ThreadState, parked
from bn_ops.engines.torch.waiting import Waiting
from bn_ops.options import Budget, Progress, ProgressCallback, silent
from bn_ops.torch_modules.arguments import Call, Item, device_of, run_item

__all__ = ["TorchFrontier"]


class TorchFrontier:
    """Implements `bn_ops.core.frontier.Frontier` for a module.

    Use as a context manager, on one thread. Inside it the module is in eval mode and holds the
    statistics committed so far; on leaving, however it is left, modes, hooks, attributes and
    statistics are as before, bit for bit. `write` then stores the result.

    Args:
        module: the root. Modified: only inside the context.
        items: the stream; read once, kept until the context is left.
        layers: the layers to recalibrate.
        call: runs one batch; None calls the module with the batch as its arguments.
        progress: told about batches read and layers settled.
        budget: memory and files for the waiting activations; None means no limit.
        shared_passes: bound on passes over the data where a layer is called several times.
        shared_tolerance: movement, in units of σ, below which such layers count as settled.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        items: Iterable[Item],
        *,
        layers: Iterable[TorchLayer],
        call: Call | None = None,
        progress: ProgressCallback = silent,
        budget: Budget | None = None,
        shared_passes: int = 20,
        shared_tolerance: float = 1e-5,
    ) -> None:
        self._module = module
        self._items = items
        self._layers = {layer.name: layer for layer in layers}
        self._call = call
        self._budget = budget
        self._progress = progress
        self._forwards: list[PausedForward] = []
        self._current: PausedForward | None = None
        self._settled: set[LayerName] = set()
        self._ever_settled: set[LayerName] = set()
        self._order = VisitOrder(self._layers)
        self._shared = SharedLayers(tolerance=shared_tolerance, passes=shared_passes)
        self._between_passes = self._started = self._closed = False
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        state = ThreadState.current()
        self._inside, self._neutral = state.without_grad(), state.neutral()
        device = device_of(self._module) or torch.device("cpu")
        self._waiting = Waiting(self._budget, device)
        with ExitStack() as stack:
            stack.enter_context(observed(self._module, self._layers.values(), self._arrived))
            self._functional = FunctionalCalls(self._module, self._layers.values(), self._arrived)
            stack.callback(self._abandon_all)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._cleanup.close()

    @property
    def spilled_bytes(self) -> int:
        """The most bytes of waiting activations that lay in files at one time."""
        return self._waiting.spilled_bytes

    @property
    def unmatched_calls(self) -> tuple[str, ...]:
        """Statistics of functional calls that are no layer of this run."""
        return tuple(self._functional.unmatched_calls)

    @property
    def residuals(self) -> Mapping[LayerName, Residual]:
        """What the last pass moved, for layers that are called more than once."""
        held = self._shared.residuals
        return {name: held[name] for name in sorted(self._shared.names) if name in held}

    def advance(self) -> Mapping[LayerName, Moments]:
        """Run every batch up to the next layer; return its moments, merged in stream order."""
        self._run_on()
        waiting = {t.waits_at.name for t in self._forwards if t.waits_at is not None}
        if waiting:
            name = self._order.first(waiting)
            return {name: self._gathered(name)}
        return self._end_of_pass()

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write the statistics into the module, where the rest of every forward reads them."""
        write(self._layers, statistics)
        self._settled |= statistics.keys()
        self._ever_settled |= statistics.keys()
        for name, settled in statistics.items():
            self._shared.commit(name, settled, self._layers[name].eps)
        done = len(self._ever_settled)
        self._progress(Progress(phase="measuring", done=done, total=len(self._layers)))

    def _run_on(self) -> None:
        """Start the batches, or resume those whose layer has been settled."""
        if not self._started:
            self._started = True
            self._start(self._items)
        elif self._between_passes:
            self._between_passes = False
            if self._shared.needs_another_pass():
                self._settled = set(self._shared.names)
                self._start([forward.item for forward in self._forwards])
        for forward in self._forwards:
            if forward.waits_at is not None and forward.waits_at.name in self._settled:
                self._resume(forward)

    def _resume(self, forward: PausedForward) -> None:
        self._current = forward
        try:
            with self._waiting.watching(), self._functional.watching():
                forward.resume()
        finally:
            self._current = None

    def _start(self, items: Iterable[Item]) -> None:
        first_pass = not self._forwards
        self._forwards = []
        for read in items:
            # What the caller's own call takes is handed on as it is.
            item = self._waiting.stored(read) if first_pass and self._call is None else read
            forward = PausedForward(item, self._forward, inside=self._inside, outside=self._neutral)
            self._forwards.append(forward)
            self._resume(forward)
            if first_pass:
                self._progress(Progress(phase="reading", done=item.index + 1, total=None))

    def _gathered(self, name: LayerName) -> Moments:
        """Merge what waits at a layer, in the order of the stream."""
        return merge_all(
            t.moments
            for t in self._forwards
            if t.moments is not None and t.waits_at is not None and t.waits_at.name == name
        )

    def _end_of_pass(self) -> Mapping[LayerName, Moments]:
        for forward in self._forwards:
            self._order.learn([layer.name for layer in forward.visited])
        pooled = self._shared.pooled()
        self._between_passes = bool(pooled)
        return pooled

    def _forward(self, item: Item) -> None:
        run_item(self._module, item, self._call)

    def _arrived(self, layer: TorchLayer, x: torch.Tensor) -> None:
        """Measure a layer's input, and wait there unless the layer is settled. Runs in a batch."""
        forward = self._current
        if forward is None or self._closed:
            # The caller runs the module for a reason of their own, or the run is being abandoned.
            return
        with parked(self._neutral):
            moments = measure_tensor(x)
            check_finite(layer.name, moments, batch=forward.item.index)
            self._shared.add(layer.name, moments)
            forward.visited.append(layer)
            if layer.name in self._settled:
                # A second call, or a batch that came by another way after the layer was settled.
                self._shared.names.add(layer.name)
            else:
                self._waiting.check(forward.item.index)
                forward.wait(layer, moments)

    def _abandon_all(self) -> None:
        for forward in self._forwards:
            forward.abandon()
        self._forwards = []
