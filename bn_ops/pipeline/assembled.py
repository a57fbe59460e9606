"""Measure a stream that is read in shards elsewhere, and assemble what a run knows of it.

The result has the same bytes as that of a run in one process: moments are merged along the tree,
the probe and the first samples come from the shards that read them, and the probe's values under
the new statistics from an exact pass over the probe with every layer's update known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from bn_ops.core.estimators import Auto, Replace
from bn_ops.core.frontier import LayerUpdate, OnUpdate, commit_layers
from bn_ops.core.options import RecalibrateOptions, ShardedStream
from bn_ops.core.sharding.conductor import settle_levels
from bn_ops.core.sharding.messages import SettledLevel, ShardMoments
from bn_ops.core.statistics import LayerName
from bn_ops.diagnostics.autocorrelation import SampleSeries
from bn_ops.diagnostics.forward_pass import ForwardPass
from bn_ops.diagnostics.probe import Probe, probe_digests, replayed_probe
from bn_ops.errors import ShardError, ShardMismatchError
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.pipeline.observation import ShardObservation, samples_from_bytes
from bn_ops.pipeline.shard import plan_for
from bn_ops.pipeline.stream import ObservedStream, check_first_samples

__all__ = ["Measured", "measure_shards"]

ModelT = TypeVar("ModelT")
BatchT = TypeVar("BatchT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Generic[BatchT]):
    """The stream and the statistics of a run that has measured every layer.

    Attributes:
        stream: what was seen of the stream.
        updates: every layer's update, in the order of execution.
        after: the probe under the new statistics; None where it was not observed.
    """

    stream: ObservedStream[BatchT]
    updates: Mapping[LayerName, LayerUpdate]
    after: ForwardPass | None


def measure_shards(
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    shards: ShardedStream,
    on_update: OnUpdate | None,
) -> Measured[BatchT]:
    """Settle all levels with the shards, and assemble the stream.

    Args:
        engine: the model, without batches.
        options: the run's options.
        shards: the stream.
        on_update: called with each layer as soon as its statistics are known.

    Raises:
        ShardMismatchError: the shards are not parts of one measurement.
        ShardError: a message is damaged.
    """
    # `Auto` measures as `Replace` does, and chooses afterwards.
    estimator = Replace() if isinstance(options.estimator, Auto) else options.estimator
    plan = plan_for(
        engine, options, estimator=estimator, execution=shards.execution, allow_mixed=False
    )

    def step(settled: SettledLevel | None) -> list[ShardMoments]:
        answers = shards.step(None if settled is None else settled.to_bytes())
        return [ShardMoments.from_bytes(answer) for answer in answers]

    updates, samples = settle_levels(plan, step, on_update=on_update)
    stream = _stream(engine, options, shards, samples)
    return Measured(stream=stream, updates=updates, after=_after(engine, options, stream, updates))


def _stream(
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    shards: ShardedStream,
    samples: int,
) -> ObservedStream[BatchT]:
    """Return the stream as if it had been read in this process."""
    parts = [ShardObservation.from_bytes(part) for part in shards.observations()]
    digests = [digest for part in parts for digest in part.digests]
    if len(digests) != samples:
        raise ShardMismatchError(
            f"the shards measured {samples} samples and observed {len(digests)}"
        )
    series = SampleSeries()
    for part in parts:
        if part.features.shape[1]:
            series.add(part.features)
    kept = list(engine.adapter.read(samples_from_bytes(shards.first_samples())))
    found: ObservedStream[BatchT] = ObservedStream(
        iter(()),
        engine.adapter,
        lambda _: None,
        _probe(engine, shards, parts, digests),
        batches=sum(part.batches for part in parts),
        samples=samples,
        kept=kept,
        series=series,
    )
    found.input_check = check_first_samples(engine, options, kept)
    return found


def _probe(
    engine: CheckedEngine[ModelT, BatchT],
    shards: ShardedStream,
    parts: Sequence[ShardObservation],
    digests: Sequence[bytes],
) -> Probe[BatchT]:
    """Request the probe's samples from the shards that read them."""
    wanted: list[list[bytes]] = [[] for _ in parts]
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part.digests))
    for digest, position in probe_digests(digests).items():
        shard = next(i for i, end in enumerate(ends[1:]) if position < end)
        wanted[shard].append(digest)
    samples: dict[bytes, BatchT] = {}
    for asked, answer in zip(wanted, shards.samples(wanted), strict=True):
        received = list(engine.adapter.read(samples_from_bytes(answer)))
        if len(received) != len(asked):
            raise ShardError(f"{len(asked)} samples were requested, and {len(received)} received")
        samples |= dict(zip(asked, received, strict=True))
    return Probe.assembled(engine.adapter, digests, samples)


def _after(
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    stream: ObservedStream[BatchT],
    updates: Mapping[LayerName, LayerUpdate],
) -> ForwardPass | None:
    """Return the probe under the new statistics, as a run observes it while it measures."""
    probe = stream.probe
    if probe is None:
        return None
    layers = {info.name: info for info in engine.layers if info.name in engine.selected}
    positions = range(probe.samples)
    with engine.frontier(probe.batches(), observed=lambda: positions) as frontier:
        commit_layers(frontier, layers, options.estimator, known=updates)
        return replayed_probe(frontier, probe, positions)
