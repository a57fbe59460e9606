"""Cut a stream into shards, by the recorded numbers of samples alone.

Moments are merged in chunks of 64 positions (see `bn_ops.core.moment_tree`), so a shard begins at a
multiple of 64 samples. The optimized execution accepts any such position. The plain graph runs
batches as they are, so that a shard begins with a batch: one that begins at a multiple of 64, or
that is the first one to begin in its chunk, where the batch is one array. A stream whose batches
end at enough multiples of 64 is cut there for both.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Literal

from bn_ops.core.moment_tree import CHUNK_SAMPLES
from service.workers.messages import StoredBatchRef, StreamPart

__all__ = ["Cut", "cut"]

Cut = Literal["aligned", "samples", "batches"]
"""Where a shard may begin: with a batch at a multiple of 64 samples; at any multiple of 64; or with
a batch that begins a chunk."""

# Formats of which a batch is one array, and so one batch of the network.
SINGLE_ARRAYS = frozenset({"safetensors", "npy", "npz"})


def cut(
    batches: Sequence[StoredBatchRef], shards: int, how: Cut, *, fixed: int = 1
) -> list[StreamPart]:
    """Return the parts of a stream, of about the same number of samples.

    Args:
        batches: the batches in stream order.
        shards: number of parts at most; there are fewer where the stream has too few places to cut.
        how: where parts may begin.
        fixed: number of samples that the model takes at a time; parts begin at multiples of it.
    """
    starts = [0, *accumulate(batch.samples for batch in batches)]
    total = starts[-1]
    step = math.lcm(CHUNK_SAMPLES, fixed)
    places = _places(batches, starts, how, step)
    borders = [0]
    for number in range(1, shards):
        wanted = -(-total // step) * number // shards * step
        place = _nearest(places, wanted, step=step if how == "samples" else None)
        if borders[-1] < place < total:
            borders.append(place)
    return [_part(starts, start, stop) for start, stop in pairwise([*borders, total])]


def balance(parts: Sequence[StreamPart], shards: int) -> float:
    """Return the share of the largest part, relative to equal parts; 1 is the best."""
    total = sum(part.samples for part in parts)
    return max(part.samples for part in parts) * shards / max(total, 1)


def _places(
    batches: Sequence[StoredBatchRef], starts: Sequence[int], how: Cut, step: int
) -> list[int]:
    """Return the positions at which a batch may begin a part, in order."""
    begins: Callable[[int], bool] = lambda index: starts[index] % step == 0  # noqa: E731
    if how != "batches" or step != CHUNK_SAMPLES:
        return [starts[index] for index in range(len(batches)) if begins(index)]
    return [
        starts[index]
        for index in range(len(batches))
        if begins(index)
        or (
            batches[index - 1].format in SINGLE_ARRAYS
            and starts[index - 1] // CHUNK_SAMPLES < starts[index] // CHUNK_SAMPLES
        )
    ]


def _nearest(places: Sequence[int], wanted: int, *, step: int | None) -> int:
    """Return the place nearest to a position; with a step, the nearest multiple."""
    if step is not None:
        return round(wanted / step) * step
    after = bisect_left(places, wanted)
    near = places[max(0, after - 1) : after + 1]
    return min(near, key=lambda place: abs(place - wanted))


def _part(starts: Sequence[int], start: int, stop: int) -> StreamPart:
    first = bisect_right(starts, start) - 1
    last = bisect_left(starts, stop)
    return StreamPart(
        start=start,
        samples=stop - start,
        recorded=starts[last] - starts[first],
        first=first,
        stop=last,
        skip=start - starts[first],
    )
