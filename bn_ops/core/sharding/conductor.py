"""The loop over levels that drives shards, wherever they run, and replaces those that die."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from bn_ops.core.frontier import LayerUpdate, OnUpdate
from bn_ops.core.sharding.messages import SettledLevel, ShardMoments, merge_moments
from bn_ops.core.sharding.plan import MeasurementPlan
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.errors import BnOpsError, ShardError, ShardMismatchError

__all__ = ["Conductor", "ShardCall", "ShardedResult", "settle_levels"]

ShardCall: TypeAlias = Callable[[bytes | None], bytes]
"""One step of a shard, as `Shard.step`: takes the bytes of the last `SettledLevel` (None at first)
and returns those of the next `ShardMoments`. It may run in another process or on another machine.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedResult:
    """The result of a measurement.

    Attributes:
        updates: every layer's source statistics, moments and new statistics, in the order of
            levels.
        samples: number of samples of all shards.
        levels: the settled levels.
        digests: for each level and shard, the sha256 of its moments.
        replaced: number of times that a shard was replaced.
    """

    updates: Mapping[LayerName, LayerUpdate]
    samples: int
    levels: tuple[SettledLevel, ...]
    digests: tuple[tuple[str, ...], ...]
    replaced: int

    @property
    def statistics(self) -> dict[LayerName, RunningStatistics]:
        """The new running statistics of each layer."""
        return {name: update.statistics for name, update in self.updates.items()}


def settle_levels(
    plan: MeasurementPlan,
    step: Callable[[SettledLevel | None], Sequence[ShardMoments]],
    *,
    on_update: OnUpdate | None = None,
) -> tuple[dict[LayerName, LayerUpdate], int]:
    """Settle level after level until every layer has its new statistics.

    Args:
        plan: the plan of all shards.
        step: returns the next level's moments of all shards for the last settled level, None at
            first.
        on_update: called with each layer as soon as its statistics are known.

    Returns:
        The update of every layer in the order of levels, and the number of samples.

    Raises:
        ShardMismatchError: the shards are not parts of one measurement.
        StreamEmptyError: no shard holds a sample.
    """
    updates: dict[LayerName, LayerUpdate] = {}
    settled: SettledLevel | None = None
    while True:
        merged = merge_moments(step(settled), allow_mixed=plan.allow_mixed)
        found = plan.update(merged)
        if not found:
            return updates, merged.samples
        updates.update(found)
        if on_update is not None:
            for name, update in found.items():
                on_update(name, update)
        statistics = {name: update.statistics for name, update in found.items()}
        settled = SettledLevel(plan=plan.sha256, level=merged.level, statistics=statistics)


class Conductor:
    """Drives shards level by level until every layer has its new statistics.

    Args:
        plan: the plan of all shards.
        shards: one call per shard.
        replace: returns a new call for a shard, given its index, after a call has failed with an
            error that is not one of this package; it holds the same samples from the beginning. It
            replays the settled levels, and its moments are compared with those measured before.
            None lets such an error end the measurement.
        max_replacements: how often shards are replaced in all.
        concurrent: whether to call each shard in a thread of its own, always the same one; False
            calls one after the other in the calling thread.
        on_level: called with each settled level, for example to report progress or to store it.
    """

    def __init__(
        self,
        plan: MeasurementPlan,
        shards: Sequence[ShardCall],
        *,
        replace: Callable[[int], ShardCall] | None = None,
        max_replacements: int = 3,
        concurrent: bool = False,
        on_level: Callable[[SettledLevel], None] | None = None,
    ) -> None:
        self._plan = plan
        self._calls = list(shards)
        self._replace = replace
        self._max_replacements = max_replacements
        self._replaced = 0
        self._concurrent = concurrent
        self._on_level = on_level
        self._levels: list[SettledLevel] = []
        self._digests: list[tuple[str, ...]] = []

    def run(self) -> ShardedResult:
        """Measure all levels.

        Raises:
            ShardMismatchError: the shards are not parts of one measurement, or a replaced shard
                measured other moments than the one before.
            StreamEmptyError: no shard holds a sample.
            BnOpsError: a shard failed with an error of this package.
        """
        with self._callers() as callers:

            def step(settled: SettledLevel | None) -> list[ShardMoments]:
                if settled is not None:
                    self._levels.append(settled)
                    if self._on_level is not None:
                        self._on_level(settled)
                parts = self._step(callers, None if settled is None else settled.to_bytes())
                self._digests.append(tuple(part.sha256 for part in parts))
                return parts

            updates, samples = settle_levels(self._plan, step)
        return ShardedResult(
            updates=updates,
            samples=samples,
            levels=tuple(self._levels),
            digests=tuple(self._digests),
            replaced=self._replaced,
        )

    def _step(
        self, callers: Sequence[ThreadPoolExecutor | None], settled: bytes | None
    ) -> list[ShardMoments]:
        waiting = [
            None if caller is None else caller.submit(self._calls[index], settled)
            for index, caller in enumerate(callers)
        ]
        parts = []
        for index, (caller, future) in enumerate(zip(callers, waiting, strict=True)):
            try:
                answer = self._calls[index](settled) if future is None else future.result()
            except BnOpsError:
                raise
            except Exception as error:  # noqa: BLE001 - a dead shard can fail in any way
                answer = self._replayed(index, caller, settled, error)
            parts.append(ShardMoments.from_bytes(answer))
        return parts

    def _replayed(
        self, index: int, caller: ThreadPoolExecutor | None, settled: bytes | None, error: Exception
    ) -> bytes:
        """Replace a shard, replay the settled levels, and return its moments of this level."""
        while True:
            if self._replace is None or self._replaced >= self._max_replacements:
                raise error
            self._replaced += 1
            try:
                self._calls[index] = self._replace(index)
                for level, before in enumerate([None, *self._levels[:-1]][: len(self._levels)]):
                    form = None if before is None else before.to_bytes()
                    self._compare(index, level, self._call(index, caller, form))
                return self._call(index, caller, settled)
            except BnOpsError:
                raise
            except Exception as again:  # noqa: BLE001 - as above
                error = again

    def _call(self, index: int, caller: ThreadPoolExecutor | None, settled: bytes | None) -> bytes:
        call = self._calls[index]
        return call(settled) if caller is None else caller.submit(call, settled).result()

    def _compare(self, index: int, level: int, answer: bytes) -> None:
        found = ShardMoments.from_bytes(answer).sha256
        if not self._plan.allow_mixed and found != self._digests[level][index]:
            raise ShardMismatchError(
                f"shard {index} was replaced and measured other moments of level {level} than "
                "before: it needs the same samples in the same batches, and the same versions and "
                "kind of processor"
            )

    @contextmanager
    def _callers(self) -> Iterator[list[ThreadPoolExecutor | None]]:
        if not self._calls:
            raise ShardError("a measurement needs at least one shard")
        with ExitStack() as stack:
            yield [
                stack.enter_context(ThreadPoolExecutor(1, f"shard-{index}"))
                if self._concurrent
                else None
                for index in range(len(self._calls))
            ]
