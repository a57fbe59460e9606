"""The probe: a few samples of the stream that depend neither on its order nor on its batches.

The probe holds the samples with the smallest sha256 of their bytes, which is as good as a random
draw and the same for every order of the stream. Equal samples count once.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Self, TypeVar

from bn_ops.core.engine import JOINED_SAMPLES, BatchAdapter, EngineFrontier
from bn_ops.diagnostics.before_after import OBSERVED_SAMPLES
from bn_ops.diagnostics.forward_pass import ForwardPass, ForwardRunner, observe, replayed

__all__ = ["PROBE_SAMPLES", "Probe", "observed_probe", "probe_digests", "replayed_probe"]

PROBE_SAMPLES = 64
"""Samples of the probe: enough for the errors of the criterion, and cheap next to the stream."""

# Batches of the probe in which the inputs of layers are observed.
_LAYER_BATCHES = OBSERVED_SAMPLES // JOINED_SAMPLES

BatchT = TypeVar("BatchT")


class Probe(Generic[BatchT]):
    """Keeps copies of the probe's samples while a stream passes.

    Where batches cannot be split, the first ones are kept whole, until they hold enough samples.

    Args:
        adapter: how to handle one batch.
        size: number of samples to keep.
        on_digest: called with the digest of every sample of the stream, in order.
    """

    def __init__(
        self,
        adapter: BatchAdapter[BatchT],
        *,
        size: int = PROBE_SAMPLES,
        on_digest: Callable[[bytes], None] | None = None,
    ) -> None:
        self._adapter = adapter
        self._size = size
        self._on_digest = on_digest
        self._digests: list[bytes] = []  # sorted
        self._kept: dict[bytes, BatchT] = {}
        self._positions: dict[bytes, int] = {}
        self._read = 0
        self._whole: list[BatchT] = []
        self._stream = hashlib.sha256()
        self._split = False

    @classmethod
    def assembled(
        cls,
        adapter: BatchAdapter[BatchT],
        digests: Sequence[bytes],
        samples: Mapping[bytes, BatchT],
    ) -> Self:
        """Return the probe of a stream that was read elsewhere.

        Args:
            adapter: how to handle one batch.
            digests: the digest of every sample of the stream, in order.
            samples: the samples of `probe_digests`.
        """
        probe = cls(adapter)
        positions = probe_digests(digests)
        probe._digests = list(positions)
        probe._positions = positions
        probe._kept = {digest: samples[digest] for digest in positions}
        probe._read = len(digests)
        probe._stream.update(b"".join(digests))
        probe._split = True
        return probe

    def add(self, batch: BatchT) -> None:
        """Take the next batch of the stream into account."""
        digests = self._adapter.digests(batch)
        if digests is None:
            if self._samples_of(self._whole) < self._size:
                self._whole.append(batch)
            return
        self._split = True
        for index, digest in enumerate(digests):
            self._stream.update(digest)
            if self._on_digest is not None:
                self._on_digest(digest)
            self._add(digest, batch, index)
            self._read += 1

    def _add(self, digest: bytes, batch: BatchT, index: int) -> None:
        if digest in self._kept:
            return
        if len(self._digests) == self._size:
            if digest > self._digests[-1]:
                return
            dropped = self._digests.pop()
            del self._kept[dropped], self._positions[dropped]
        bisect.insort(self._digests, digest)
        self._kept[digest] = self._adapter.sample(batch, index)
        self._positions[digest] = self._read

    @property
    def samples(self) -> int:
        """Number of samples kept so far."""
        return len(self._digests) or self._samples_of(self._whole)

    @property
    def stream_sha256(self) -> str | None:
        """Digest of the digests of all samples in order; None where batches cannot be split."""
        return self._stream.hexdigest() if self._split else None

    def one(self, digest: bytes) -> BatchT | None:
        """Return the sample with a digest, or None if it is not kept."""
        return self._kept.get(digest)

    def batches(self) -> Sequence[BatchT]:
        """Return the probe's samples, in the order of their digests."""
        if self._whole:
            return tuple(self._whole)
        return self._adapter.join([self._kept[digest] for digest in self._digests])

    def positions(self) -> list[int]:
        """Return the samples' positions in the stream, in the order of their digests.

        Empty where batches cannot be split.
        """
        return [self._positions[digest] for digest in self._digests]

    def sizes(self) -> list[int]:
        """Return the number of samples of each of `batches`."""
        return [self._adapter.samples(batch) for batch in self.batches()]

    def _samples_of(self, batches: Sequence[BatchT]) -> int:
        return sum(self._adapter.samples(batch) for batch in batches)


def probe_digests(digests: Sequence[bytes], size: int = PROBE_SAMPLES) -> dict[bytes, int]:
    """Return the digests of a stream's probe, sorted, with the position of each sample.

    Args:
        digests: the digest of every sample of the stream, in order.
        size: number of samples to keep.
    """
    positions: dict[bytes, int] = {}
    for position, digest in enumerate(digests):
        positions.setdefault(digest, position)
    return {digest: positions[digest] for digest in heapq.nsmallest(size, positions)}


def observed_probe(
    runner: ForwardRunner[BatchT], probe: Probe[BatchT], *, layers: bool = True
) -> ForwardPass:
    """Run the probe.

    Args:
        runner: runs the model.
        probe: the probe.
        layers: whether to observe the inputs of layers on the first samples.
    """
    return observe(runner, probe.batches(), layer_batches=_LAYER_BATCHES if layers else 0)


def replayed_probe(
    frontier: EngineFrontier,
    probe: Probe[BatchT],
    positions: Sequence[int],
    *,
    layers: bool = True,
) -> ForwardPass | None:
    """Return what `observed_probe` would give under the statistics of a finished run.

    Args:
        frontier: observed the probe, and has committed every layer.
        probe: the probe.
        positions: positions of its samples in the stream of that run.
        layers: as for `observed_probe`.

    Returns:
        None where the engine did not observe the probe.
    """
    layer_batches = _LAYER_BATCHES if layers else 0
    return replayed(frontier.replay(), positions, probe.sizes(), layer_batches=layer_batches)
