"""Observe some samples of a run: the inputs of their layers, and the outputs of the network.

A run under the statistics that a layer receives computes, for each sample, what a forward pass with
the new statistics would compute: the input of each layer, up to that of the last one. The
tensors that the head of the network reads are kept for these samples, so that running the head
gives their outputs without another forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, from_samples, join

if TYPE_CHECKING:
    from bn_ops.core.engine import OnLayerInput, OnOutputs, Positions
    from bn_ops.core.statistics import Float64Array, LayerName

__all__ = ["MAX_OBSERVED_BYTES", "Head", "ObservedSamples", "Replay"]

Head = Callable[[Mapping[str, NDArray[np.generic]]], Mapping[str, NDArray[np.generic]]]
"""Returns the network's outputs for the tensors that its head reads."""

# Bytes of everything that is kept; a network whose head reads more is not observed.
MAX_OBSERVED_BYTES = 64 << 20


class ObservedSamples:
    """Values kept of the observed samples of a stream; not thread-safe.

    Args:
        positions: the samples.
        tensors: names of the tensors whose rows the head reads.
        max_bytes: bytes to keep at most.
    """

    def __init__(self, positions: Positions, tensors: Iterable[str], *, max_bytes: int) -> None:
        self._positions = positions
        self._tensors = frozenset(tensors)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._moments: dict[tuple[str, int], tuple[Float64Array, Float64Array, int]] = {}
        self._rows: dict[tuple[str, int], NDArray[np.generic]] = {}

    @property
    def overflowed(self) -> bool:
        """Return whether there was more to keep than allowed, so that nothing was kept."""
        return self._bytes > self._max_bytes

    def add_moments(
        self, tensor: str, start: int, mean: Float64Array, sq_dev: Float64Array, count: int
    ) -> None:
        """Keep per-sample moments of consecutive samples.

        Args:
            tensor: a measured tensor.
            start: position of the first sample.
            mean: (n, C), float64.
            sq_dev: (n, C), float64, as `bn_ops.core.moments.from_samples`.
            count: values per sample and channel.
        """
        positions = self._among(start, len(mean))
        rows = np.array(positions, np.intp) - start
        means, sq_devs = mean[rows], sq_dev[rows]
        self._count(means.nbytes + sq_devs.nbytes)
        if not self.overflowed:
            kept = zip(positions, means, sq_devs, strict=True)
            self._moments |= {(tensor, at): (one, dev, count) for at, one, dev in kept}

    def add_rows(self, name: str, start: int, array: NDArray[np.generic]) -> None:
        """Keep the rows of a tensor, if the head reads it."""
        if name not in self._tensors:
            return
        for position in self._among(start, len(array)):
            row = array[position - start].copy()
            self._count(row.nbytes)
            self._rows[name, position] = row

    def drop_others(self) -> None:
        """Drop the samples that are no longer among the observed ones."""
        wanted = set(self._positions())
        self._moments = {key: kept for key, kept in self._moments.items() if key[1] in wanted}
        self._rows = {key: row for key, row in self._rows.items() if key[1] in wanted}
        if not self.overflowed:
            self._bytes = sum(2 * mean.nbytes for mean, _, _ in self._moments.values())
            self._bytes += sum(row.nbytes for row in self._rows.values())

    def moments(self, tensor: str, positions: Sequence[int]) -> Moments:
        """Return the moments of some samples of equal shapes."""
        kept = [self._moments[tensor, position] for position in positions]
        mean, sq_dev = (np.stack([one[index] for one in kept]) for index in (0, 1))
        return from_samples(mean, sq_dev, kept[0][2])

    def rows(self, positions: Sequence[int]) -> dict[str, NDArray[np.generic]]:
        """Return the tensors that the head reads, for some samples of equal shapes."""
        return {
            name: np.stack([self._rows[name, position] for position in positions])
            for name in sorted(self._tensors)
        }

    def _among(self, start: int, samples: int) -> list[int]:
        if self.overflowed:
            return []
        return [p for p in self._positions() if start <= p < start + samples]

    def _count(self, nbytes: int) -> None:
        self._bytes += nbytes
        if self.overflowed:
            self._moments.clear()
            self._rows.clear()


class Replay:
    """Implements `bn_ops.core.engine.Replay`.

    Args:
        samples: what a finished run kept.
        parts: each layer's tensors, in the order of its channels.
        head: runs the rest of the network.
    """

    def __init__(
        self, samples: ObservedSamples, parts: Mapping[LayerName, Sequence[str]], head: Head
    ) -> None:
        self._samples = samples
        self._parts = parts
        self._head = head

    def __call__(
        self,
        batches: Iterable[Sequence[int]],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """See `bn_ops.core.engine.Replay`."""
        for positions in batches:
            if on_layer_input is not None:
                for layer, tensors in self._parts.items():
                    found = [self._samples.moments(name, positions) for name in tensors]
                    on_layer_input(layer, join(found))
            on_outputs(self._head(self._samples.rows(positions)))
