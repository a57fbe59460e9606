"""Which images a stream holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHOTO_STREAMS", "STREAMS", "Stream", "draw_images", "draw_pictures", "planned"]

Index = NDArray[np.int64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A stream to draw.

    Attributes:
        kind: `mixed` (all classes alike), `tail` (each class half as often as the one before it),
            `five`, `three`, `two` or `one` (number of classes), or `narrow` (consecutive
            pictures in order of their class).
        samples: number of images.
        draw: number of the random draw.
    """

    kind: str
    samples: int
    draw: int


_CLASSES = {"five": 5, "two": 2, "one": 1, "three": 3}  # the others hold every class
_SEEDS = {kind: seed for seed, kind in enumerate(("mixed", "five", "two", "one", "tail", "three"))}

_FEWEST_CLASSES = 10

# Per kind of stream: n and the number of draws.
STREAMS: Mapping[str, Mapping[int, int]] = {
    "mixed": {1: 2, 2: 2, 4: 2, 8: 3, 16: 3, 32: 2, 64: 2, 256: 1},
    **{kind: {4: 1, 16: 2, 64: 1, 256: 1} for kind in ("five", "three", "two", "one")},
    "tail": {16: 1, 64: 1, 256: 1},
}
PHOTO_STREAMS: Mapping[str, Mapping[int, int]] = {
    "mixed": {2: 1, 4: 1, 8: 2, 16: 2, 32: 1, 64: 1, 110: 1},
    "narrow": {16: 1, 64: 1},
}

# A set that is too small for these sizes gives all that it has.
_AS_MANY_AS_THERE_ARE = (64, 110)


def planned(kinds: Mapping[str, Mapping[int, int]], sizes: Sequence[int] = ()) -> Iterator[Stream]:
    """Yield every stream, or those of some sizes only."""
    for kind, draws in kinds.items():
        for samples, count in draws.items():
            if not sizes or samples in sizes:
                for draw in range(count):
                    yield Stream(kind=kind, samples=samples, draw=draw)


def draw_images(stream: Stream, labels: Labels, seed: int) -> Index:
    """Return the positions of the images of a stream; all there are, where there are fewer."""
    random = np.random.default_rng([seed, stream.samples, stream.draw, _SEEDS[stream.kind]])
    every = max(_FEWEST_CLASSES, int(labels.max()) + 1)
    chosen = random.permutation(every)[: _CLASSES.get(stream.kind, every)]
    among = np.flatnonzero(np.isin(labels, chosen))
    count = min(stream.samples, len(among))
    if stream.kind != "tail":
        return random.choice(among, count, replace=False)
    weight = (0.5 ** np.argsort(random.permutation(every)))[labels[among]]
    return random.choice(among, count, replace=False, p=weight / weight.sum())


def draw_pictures(
    stream: Stream, labels: Labels, crops: int, seed: int
) -> tuple[Index, Index] | None:
    """Return the positions of a stream of pictures, and those of the pictures left for the test.

    Args:
        stream: the stream.
        labels: class of every picture.
        crops: number of consecutive crops of one picture; half of each is left for the test.
        seed: number of the case.

    Returns:
        None where the set is too small for the stream.
    """
    random = np.random.default_rng([77, stream.samples, stream.draw, seed])
    total = len(labels)
    if crops > 1:
        first = np.arange(total) % crops < crops // 2
        half, rest = np.flatnonzero(first), np.flatnonzero(~first)
    else:
        order = random.permutation(total)
        half, rest = order[: total // 2], order[total // 2 :]
    if stream.kind == "narrow":
        by_class = half[np.argsort(labels[half], kind="stable")]
        start = int(random.integers(0, max(1, len(by_class) - stream.samples)))
        return by_class[start : start + stream.samples], rest
    picked = random.permutation(half)[: stream.samples]
    if len(picked) < stream.samples and stream.samples not in _AS_MANY_AS_THERE_ARE:
        return None
    return picked, rest
