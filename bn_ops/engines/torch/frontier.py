"""The frontier of a torch module: one coroutine per batch, paused by pre-hooks at the layers.

Every operator runs once per batch, so the exact method costs one forward pass. Nothing is traced:
the forward's Python code runs unchanged, batches may take different branches, and the module may be
on any device. Activations that are needed later wait in memory up to a budget, then in files.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import greenlet  # type: ignore[import-untyped]
import torch

from bn_ops.core.engine import Residual
from bn_ops.core.frontier import check_finite
from bn_ops.core.moment_tree import MomentTree
from bn_ops.core.moments import Moments
from bn_ops.core.options import Budget, Progress, ProgressCallback, silent
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.torch.functional import FunctionalCalls
from bn_ops.engines.torch.in_place import overwrite_dead_inputs
from bn_ops.engines.torch.layers import TorchLayer, write
from bn_ops.engines.torch.moments import measure_tensor
from bn_ops.engines.torch.observation import observed
from bn_ops.engines.torch.shared_layers import SharedLayers, VisitOrder
from bn_ops.engines.torch.spill import Waiting
from bn_ops.engines.torch.thread_state import ThreadState, parked
from bn_ops.torch_modules.arguments import Call, Item, device_of, run_item

__all__ = ["PausedForward", "TorchFrontier"]

# The forward of one batch as a coroutine (greenlet) that pauses at layers.


class PausedForward:
    """The forward of one batch, which can be paused and resumed at layers.

    Attributes:
        item: the batch.
        position: of its first sample in the stream.
        waits_at: the layer at which it is paused; None while it runs and after its end.
        moments: the moments of that layer's input.
        visited: the layers that it has reached, in order.
    """

    def __init__(
        self,
        item: Item,
        forward: Callable[[Item], None],
        *,
        position: int,
        inside: ThreadState,
        outside: ThreadState,
    ) -> None:
        self.item = item
        self.position = position
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


class TorchFrontier:
    """Implements `bn_ops.core.frontier.Frontier` for a module.

    Use as a context manager, on one thread. Inside the context the module is in eval mode and holds
    the statistics committed so far. On exit, with or without an exception, modes, hooks, attributes
    and statistics are restored bit for bit; `write` then stores the result.

    Args:
        module: the root. Modified: only inside the context.
        items: the stream; read once, kept until the context exits.
        layers: the layers to recalibrate.
        call: runs one batch; None calls the module with the batch as its arguments.
        progress: called after each batch read and each layer committed.
        budget: memory and files for waiting activations; None for no limit.
        shared_passes: maximum number of passes where a layer is called several times.
        shared_tolerance: movement, in units of σ, below which such layers count as converged.
        start: position of the first sample in the stream of which `items` is a part.
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
        start: int = 0,
    ) -> None:
        self._module = module
        self._items = items
        self._layers = {layer.name: layer for layer in layers}
        self._call = call
        self._start_position = start
        self._budget = budget
        self._progress = progress
        self._forwards: list[PausedForward] = []
        self._current: PausedForward | None = None
        self._committed: set[LayerName] = set()
        self._ever_committed: set[LayerName] = set()
        self._order = VisitOrder(self._layers)
        self._shared = SharedLayers(tolerance=shared_tolerance, passes=shared_passes)
        self._between_passes = self._started = self._closed = False
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        state = ThreadState.current()
        self._inside, self._neutral = state.without_grad(), state.neutral()
        device = device_of(self._module) or torch.device("cpu")
        with ExitStack() as stack:
            self._waiting = Waiting(self._budget, device)
            stack.callback(self._waiting.close)
            stack.enter_context(observed(self._module, self._layers.values(), self._on_input))
            overwrite_dead_inputs(self._module, lambda: not self._waiting.moves_tensors)
            self._functional = FunctionalCalls(self._module, self._layers.values(), self._on_input)
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
        """Peak size in bytes of the waiting activations in files."""
        return self._waiting.spilled_bytes

    @property
    def unmatched_calls(self) -> tuple[str, ...]:
        """Statistics of functional calls that are not layers of this run."""
        return tuple(self._functional.unmatched_calls)

    @property
    def residuals(self) -> Mapping[LayerName, Residual]:
        """The movement in the last pass of layers that are called more than once."""
        held = self._shared.residuals
        return {name: held[name] for name in sorted(self._shared.names) if name in held}

    def kernels(self) -> Mapping[str, str]:
        """See `bn_ops.core.engine.EngineFrontier.kernels`."""
        return {
            "torch": torch.__version__,
            "device": str(device_of(self._module) or "cpu").partition(":")[0],
            "vector instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }

    def replay(self) -> None:
        """Return None: no sample is observed."""
        return

    def advance(self) -> Mapping[LayerName, MomentTree]:
        """Run every batch up to the next layer; return its moments."""
        self._run_on()
        waiting = {t.waits_at.name for t in self._forwards if t.waits_at is not None}
        if waiting:
            name = self._order.first(waiting)
            tree = self._gathered(name)
            self._shared.begin(name, tree)
            return {name: tree}
        return self._end_of_pass()

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write the statistics into the module, where the rest of each forward uses them."""
        write(self._layers, statistics)
        self._committed |= statistics.keys()
        self._ever_committed |= statistics.keys()
        for name, new in statistics.items():
            self._shared.commit(name, new, self._layers[name].eps)
        done = len(self._ever_committed)
        self._progress(Progress(phase="measuring", done=done, total=len(self._layers)))

    def _run_on(self) -> None:
        """Start the batches, or resume those whose layer has been committed."""
        if not self._started:
            self._started = True
            self._start(self._items)
        elif self._between_passes:
            self._between_passes = False
            if self._shared.needs_another_pass():
                self._committed = set(self._shared.names)
                self._start([forward.item for forward in self._forwards])
        for forward in self._forwards:
            if forward.waits_at is not None and forward.waits_at.name in self._committed:
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
        position = self._start_position
        for read in items:
            # Batches for the caller's own `call` are passed on unchanged.
            item = self._waiting.stored(read) if first_pass and self._call is None else read
            forward = PausedForward(
                item,
                self._forward,
                position=position,
                inside=self._inside,
                outside=self._neutral,
            )
            position += item.samples
            self._forwards.append(forward)
            self._resume(forward)
            if first_pass:
                self._progress(Progress(phase="reading", done=item.index + 1, total=None))

    def _gathered(self, name: LayerName) -> MomentTree:
        """Return the moments of the batches that wait at a layer."""
        tree = MomentTree(ordered=False)
        for forward in self._forwards:
            layer, moments = forward.waits_at, forward.moments
            if moments is not None and layer is not None and layer.name == name:
                tree.add(forward.position, moments)
        return tree

    def _end_of_pass(self) -> Mapping[LayerName, MomentTree]:
        for forward in self._forwards:
            self._order.learn([layer.name for layer in forward.visited])
        pooled = self._shared.pooled()
        self._between_passes = bool(pooled)
        return pooled

    def _forward(self, item: Item) -> None:
        run_item(self._module, item, self._call)

    def _on_input(self, layer: TorchLayer, x: torch.Tensor) -> None:
        """Measure a layer's input, and pause there unless the layer is committed."""
        forward = self._current
        if forward is None or self._closed:
            # The caller runs the module outside of this run, or the run is being abandoned.
            return
        with parked(self._neutral):
            moments = measure_tensor(x)
            check_finite(layer.name, moments, batch=forward.item.index)
            forward.visited.append(layer)
            if layer.name in self._committed:
                # A second call, or a batch that reached the layer by another branch later.
                self._shared.names.add(layer.name)
                self._shared.add(layer.name, forward.position, moments)
            else:
                self._waiting.check(forward.item.index)
                forward.wait(layer, moments)

    def _abandon_all(self) -> None:
        for forward in self._forwards:
            forward.abandon()
        self._forwards = []
