"""Count how often the order of the colors is reported for crops of a few photographs.

`python -m benchmarks.accuracy.color_order`. It needs Debian's tuxpaint-data,
tuxpaint-stamps-default and mate-backgrounds, and the packages of requirements-models.txt.

Every network is given streams of 64 crops of 1 to 16 photographs, and of as many different
pictures, with the preprocessing of its training. A network with its first kernels reversed is a
network for BGR, with the same distances in the opposite order; so the reports of one are the
mirrored reports of the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.input_check import NETWORKS, PAGE, Network, Row
from benchmarks.accuracy.networks import DEFAULT_CACHE
from benchmarks.accuracy.photographs import read_photographs
from benchmarks.accuracy.results import replace_marked, write_results
from bn_ops.api import _start
from bn_ops.input_check.color_order import is_colorful, order_of, scenes_of
from bn_ops.input_check.judging import measure_images
from bn_ops.input_check.sample_moments import Groups, SampleMoments
from bn_ops.input_check.value_ranges import Candidate, candidates

FOLDERS = (Path("/usr/share/tuxpaint/templates"), Path("/usr/share/backgrounds/mate/nature"))
"""Folders of photographs, as JPEG files."""

SIZE = 128
CROPS = 32
STREAM = 64
PHOTOGRAPHS = (1, 2, 3, 5, 7, 10, 16)
DIFFERENT = "different pictures"

Pixels = NDArray[np.float32]
"""RGB images 0…255, shape (n, 3, SIZE, SIZE)."""


def main() -> None:
    """Measure every network, write the rows and the table of docs/input-check.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--streams", type=int, default=150, help="streams of each kind")
    options = parser.parse_args()
    began = time.perf_counter()
    photographs = [path for folder in FOLDERS for path in sorted(folder.glob("*.jpg"))]
    pixels = _planes([*(c for path in photographs for c in crops(path)), *map(whole, photographs)])
    stamps = _planes(list(read_photographs(200, SIZE)))
    images = np.concatenate([pixels, stamps])
    chosen = list(streams(len(photographs), len(stamps), options.streams))
    scenes = [scenes_of(images[index]) for _, index in chosen]
    rows: list[Row] = []
    for name in NETWORKS:
        network = NETWORKS[name](options.cache)
        if network.right.preprocess.color == "gray":
            continue
        rows += measured(network, images, chosen, scenes)
        print(name, f"{time.perf_counter() - began:.0f} s", flush=True)
    seconds = time.perf_counter() - began
    print(write_results("color-order", rows, seconds=seconds, photographs=len(photographs)))
    replace_marked("color-order", PAGE, table(rows))


def crops(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield crops of 4 to 50 % of a photograph's area."""
    random = np.random.default_rng(list(path.name.encode()))
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((1600, 1600))
    for _ in range(CROPS):
        side = int(np.sqrt(random.uniform(0.04, 0.5) * image.width * image.height))
        side = min(side, image.width, image.height)
        left = int(random.integers(0, image.width - side + 1))
        top = int(random.integers(0, image.height - side + 1))
        crop = image.crop((left, top, left + side, top + side))
        yield np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def whole(path: Path) -> NDArray[np.uint8]:
    """Return the square in the middle of a photograph."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _planes(images: Sequence[NDArray[np.uint8]]) -> Pixels:
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)


def streams(photographs: int, stamps: int, count: int) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """Yield the kind of each stream and the indexes of its images.

    The images are the crops of every photograph, then the photographs, then the stamps.
    """
    random = np.random.default_rng(0)
    for of in PHOTOGRAPHS:
        for _ in range(count):
            each = min(CROPS, -(-STREAM // of))
            index = [
                photograph * CROPS + random.choice(CROPS, each, replace=False)
                for photograph in random.choice(photographs, of, replace=False)
            ]
            yield str(of), np.concatenate(index)[:STREAM]
    first = photographs * CROPS
    for _ in range(count):
        half = random.choice(photographs, min(photographs, STREAM // 2), replace=False)
        rest = photographs + random.choice(stamps, STREAM - len(half), replace=False)
        yield DIFFERENT, first + np.concatenate([half, rest])


def measured(
    network: Network,
    images: Pixels,
    chosen: Sequence[tuple[str, NDArray[np.intp]]],
    scenes: Sequence[Groups],
) -> Iterator[Row]:
    """Yield a row for each kind of stream: how often an order was reported."""
    start = _start(network.model, None, 1)
    name = network.model.graph.input[0].name
    measure = measure_images(start, name, np.dtype(np.float32), channels_last=False)
    both = [c for c in candidates(3) if c.name == network.right.name]
    moments = [(c, measure(c.apply(images))) for c in both]
    for kind in dict.fromkeys(kind for kind, _ in chosen):
        found = [
            (_reported(moments, images, index, groups), int(groups.max()) + 1)
            for (of, index), groups in zip(chosen, scenes, strict=True)
            if of == kind
        ]
        reported, alone = zip(*(orders for orders, _ in found), strict=True)
        yield {
            "network": network.name,
            "photographs": kind,
            "streams": len(found),
            "scenes": float(np.median([count for _, count in found])),
            "rgb": reported.count("rgb"),
            "bgr": reported.count("bgr"),
            "rgb_as_independent": alone.count("rgb"),
            "bgr_as_independent": alone.count("bgr"),
        }


def _reported(
    moments: Sequence[tuple[Candidate, SampleMoments]],
    images: Pixels,
    index: NDArray[np.intp],
    scenes: Groups,
) -> tuple[str, str]:
    """Return the reported order, and the one that independent images would give."""
    if not is_colorful(images[index]):
        return "undecided", "undecided"
    taken = [(candidate, _take(found, index)) for candidate, found in moments]
    alone = np.arange(len(index))
    return order_of(taken, scenes), order_of(taken, alone)


def _take(moments: SampleMoments, index: NDArray[np.intp]) -> SampleMoments:
    return SampleMoments(
        layers=moments.layers,
        source=moments.source,
        mean=moments.mean[index],
        var=moments.var[index],
    )


def table(rows: Sequence[Row]) -> str:
    """Render what docs/input-check.md shows, over all networks."""
    lines = [
        (
            "| 64 crops of … photographs | streams | scenes (median) | `rgb` | `bgr` | "
            "`rgb`, as independent images | `bgr`, as independent images |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["photographs"] for row in rows):
        same = [row for row in rows if row["photographs"] == kind]
        counts = [sum(row[key] for row in same) for key in _COUNTS]
        scenes = f"{np.median([row['scenes'] for row in same]):.0f}"
        lines.append(f"| {kind} | {counts[0]} | {scenes} | {' | '.join(map(str, counts[1:]))} |")
    return "\n".join(lines)


_COUNTS = ("streams", "rgb", "bgr", "rgb_as_independent", "bgr_as_independent")


if __name__ == "__main__":
    main()
