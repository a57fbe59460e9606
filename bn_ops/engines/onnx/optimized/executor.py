"""Run segments of the optimized graph, with samples distributed over threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.engine import Positions
from bn_ops.core.moment_tree import CHUNK_SAMPLES, MomentTree
from bn_ops.core.moments import from_samples
from bn_ops.core.options import Progress
from bn_ops.core.reduction import thread_count
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.engines.onnx.accumulator import MomentAccumulator
from bn_ops.engines.onnx.optimized.buffer_pool import BufferPool
from bn_ops.engines.onnx.optimized.model import Kind, OptimizedModel
from bn_ops.engines.onnx.optimized.replay import (
    MAX_OBSERVED_BYTES,
    ObservedSamples,
    Replay,
)
from bn_ops.engines.onnx.optimized.segment_runner import SegmentRunner
from bn_ops.engines.onnx.plan import Segment
from bn_ops.engines.onnx.rebatch import group_samples
from bn_ops.engines.onnx.tensor_store import TensorStore
from bn_ops.onnx_files.shared_arena import free_arena

__all__ = ["WORKING_BYTES", "OptimizedGraphExecutor", "Scratch"]

_Arrays = Mapping[str, NDArray[np.generic]]
_Reduced = dict[str, tuple[Float64Array, Float64Array]]

# Approximate bytes that one run reads and writes: a segment's outputs are then still in the
# processor's cache when their moments are measured, and Python's overhead per run stays below 1 %.
_RUN_BYTES = 8 << 20

WORKING_BYTES = 4 * _RUN_BYTES
"""Additional memory per thread: onnxruntime's tensors within a segment, copies of rows that are
reduced twice, and memory that the C library holds back. Measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A group that is running through a segment."""

    number: int
    inputs: _Arrays
    outputs: _Arrays
    parts: list[Future[_Reduced]]


class Scratch:
    """Memory of each thread for tensors that it reads at once; it grows to the most requested."""

    def __init__(self) -> None:
        self._local = threading.local()

    def arrays(self, kinds: Mapping[str, Kind], samples: int) -> dict[str, NDArray[np.generic]]:
        """Return arrays with undefined content, valid until the thread's next call."""
        sizes = {name: samples * kind.nbytes for name, kind in kinds.items()}
        memory = getattr(self._local, "memory", None)
        if memory is None or memory.nbytes < sum(sizes.values()):
            memory = self._local.memory = np.empty(sum(sizes.values()), np.uint8)
        arrays, start = {}, 0
        # The largest element types first: every start is then a multiple of the element's size.
        for name, kind in sorted(kinds.items(), key=lambda item: -item[1].dtype.itemsize):
            part = memory[start : start + sizes[name]]
            arrays[name] = part.view(kind.dtype).reshape((samples, *kind.shape))
            start += sizes[name]
        return arrays


class OptimizedGraphExecutor:
    """Runs the optimized graph segment by segment.

    Args:
        model: the optimized model.
        batches: the stream.
        store: holds waiting tensors.
        progress: called after each batch.
        threads: threads that run samples; None for every core.
        observed: the samples to observe for `replay`; None for none.
        start: position of the first sample in the stream of which this one is a part.
    """

    def __init__(
        self,
        model: OptimizedModel,
        batches: Iterable[Batch],
        *,
        store: TensorStore,
        progress: Callable[[Progress], None],
        threads: int | None,
        observed: Positions | None = None,
        start: int = 0,
    ) -> None:
        self._model = model
        self._batches = batches
        self._accumulator = MomentAccumulator(model.plan)
        self._store = store
        self._progress = progress
        self._threads = thread_count(threads)
        working = store.share_of_budget(self._threads * WORKING_BYTES)
        self._pool = BufferPool(lambda nbytes: store.fits(nbytes + working))
        self._workers = ThreadPoolExecutor(self._threads, "segments")
        self._level = 0
        self._groups: list[tuple[tuple[int, ...], int, tuple[tuple[int, ...], ...]]] = []
        self._starts: list[int] = []
        self._start_position = start
        self._reported = 0
        self._samples: ObservedSamples | None = None
        head = model.plan.head
        self._kept = model.plan.stored | frozenset(() if head is None else head.inputs)
        self._scratch = Scratch()
        if observed is not None and head is not None:
            limit = store.share_of_budget(MAX_OBSERVED_BYTES)
            self._samples = ObservedSamples(observed, head.inputs, max_bytes=limit)

    def advance(self) -> Mapping[LayerName, MomentTree]:
        """Run every sample through the next segment; return the moments of its layers."""
        if self._level == len(self._model.plan.segments):
            return {}
        segment = self._model.plan.segments[self._level]
        self._run_level(segment)
        self._model.close_runner(self._level)
        self._level += 1
        return self._accumulator.layers(segment)

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write scale and shift of the layers."""
        self._model.commit(statistics)

    def replay(self) -> Replay | None:
        """Return the values kept of the observed samples, after the last commit."""
        if self._samples is None or self._samples.overflowed:
            return None
        return Replay(self._samples, self._model.parts, self._model.head)

    def uncut(self) -> OptimizedModel | None:
        """Return the model if the samples of `observed` can be run through it uncut."""
        return None if self._samples is None else self._model

    def close(self) -> None:
        """Stop the threads, and return the memory of their tensors to the system."""
        self._workers.shutdown()
        free_arena()

    def _run_level(self, segment: Segment) -> None:
        waiting: deque[_Pending] = deque()
        running = 0
        self._reported = 0
        try:
            for number, inputs in self._arriving(segment):
                waiting.append(self._start(segment, number, inputs))
                del inputs  # it would keep a group's memory alive until the next group
                running += len(waiting[-1].parts)
                while running > 2 * self._threads and len(waiting) > 1:
                    running -= len(waiting[0].parts)
                    self._finish(segment, waiting.popleft())
            while waiting:
                self._finish(segment, waiting.popleft())
        finally:
            # Buffers must outlive the threads that write to them.
            wait([part for group in waiting for part in group.parts])

    def _arriving(self, segment: Segment) -> Iterator[tuple[int, _Arrays]]:
        if self._level > 0:
            for number in range(len(self._groups)):
                yield number, {name: self._store.get(number, name) for name in segment.inputs}
            return
        start = 0
        groups = group_samples(self._batches, start=self._start_position, chunk=CHUNK_SAMPLES)
        for number, group in enumerate(groups):
            self._starts.append(start)
            start += group.samples
            self._groups.append(
                (group.batches, group.completed, self._model.try_shapes(group.arrays))
            )
            yield number, group.arrays

    def _start(self, segment: Segment, number: int, inputs: _Arrays) -> _Pending:
        batches, _, signature = self._groups[number]
        samples = len(batches)
        kinds = self._model.kinds(signature)
        outputs = {
            name: self._pool.take((samples, *kinds[name].shape), kinds[name].dtype)
            for name in segment.outputs
            if name in self._kept
        }
        brief = {name: kinds[name] for name in segment.outputs if name not in self._kept}
        per_sample_bytes = sum(inputs[name].nbytes // samples for name in segment.inputs)
        per_sample_bytes += sum(kinds[name].nbytes for name in segment.outputs)
        step = min(max(1, _RUN_BYTES // max(per_sample_bytes, 1)), -(-samples // 2))
        runner = self._model.runner(self._level)
        parts = [
            self._workers.submit(self._part, runner, inputs, outputs, brief, slice(start, stop))
            for start in range(0, samples, step)
            for stop in (min(start + step, samples),)
        ]
        return _Pending(number=number, inputs=inputs, outputs=outputs, parts=parts)

    def _part(
        self,
        runner: SegmentRunner | None,
        inputs: _Arrays,
        outputs: _Arrays,
        brief: Mapping[str, Kind],
        part: slice,
    ) -> _Reduced:
        """Run some samples through a segment and reduce the results while they are in the cache.

        Args:
            runner: runs the segment; None if it has no outputs.
            inputs: of the group.
            outputs: of the group, those that are kept.
            brief: the outputs that are only reduced, which need memory until then.
            part: the samples.
        """
        given = {name: array[part] for name, array in inputs.items()}
        made = {name: array[part] for name, array in outputs.items()}
        made |= self._scratch.arrays(brief, part.stop - part.start)
        if runner is not None:
            runner.run({n: given[n] for n in runner.segment.inputs}, made)
        segment = self._model.plan.segments[self._level]
        seen = {**given, **made}
        return {name: self._model.reduce(name, seen[name]) for name in segment.reduced}

    def _finish(self, segment: Segment, group: _Pending) -> None:
        reduced = [part.result() for part in group.parts]
        for name in segment.reduced:
            mean = np.concatenate([part[name][0] for part in reduced])
            sq_dev = np.concatenate([part[name][1] for part in reduced])
            self._count(name, mean, sq_dev, group)
        self._observe(group)
        self._release(segment, group)
        self._keep(segment, group)
        self._report(group.number)

    def _count(self, name: str, mean: Float64Array, sq_dev: Float64Array, group: _Pending) -> None:
        given = group.inputs.get(name)
        kinds = self._model.kinds(self._groups[group.number][2])
        shape = kinds[name].shape if given is None else given.shape[1:]
        positions = int(np.prod(shape[1:], dtype=np.int64))
        bad = ~(np.isfinite(mean) & np.isfinite(sq_dev)).all(axis=1)
        batch = self._groups[group.number][0][int(np.argmax(bad))] if bad.any() else None
        with np.errstate(over="ignore", invalid="ignore"):
            found = from_samples(mean, sq_dev, positions)
        start = self._starts[group.number]
        self._accumulator.add(name, self._start_position + start, found, batch=batch)
        if self._samples is not None:
            self._samples.add_moments(name, start, mean, sq_dev, positions)

    def _observe(self, group: _Pending) -> None:
        """Keep what the head reads of the observed samples."""
        if self._samples is None:
            return
        start = self._starts[group.number]
        made = group.outputs
        for name, array in ({**group.inputs, **made} if self._level == 0 else made).items():
            self._samples.add_rows(name, start, array)
        if self._level == 0:
            self._samples.drop_others()

    def _release(self, segment: Segment, group: _Pending) -> None:
        if self._level == 0:
            return
        for name in segment.released:
            array = self._store.drop(group.number, name)
            if array is not None:
                self._pool.give_back(array)

    def _keep(self, segment: Segment, group: _Pending) -> None:
        stored = self._model.plan.stored
        if self._level == 0:
            for name in group.inputs.keys() & stored - segment.released:
                self._store.put(group.number, name, group.inputs[name])
        for name, array in group.outputs.items():
            if name not in stored:
                self._pool.give(array)
                continue
            held = self._pool.evict_idle()
            self._store.put(group.number, name, array, in_memory=held)
            (self._pool.hand_over if held else self._pool.give)(array)

    def _report(self, number: int) -> None:
        levels = len(self._model.plan.segments) - 1
        every = sum(ends for _, ends, _ in self._groups)
        for _ in range(self._groups[number][1]):
            self._reported += 1
            if self._level == 0:
                self._progress(Progress(phase="reading", done=self._reported, total=None))
            else:
                done = every * (self._level - 1) + self._reported
                self._progress(Progress(phase="measuring", done=done, total=every * levels))
