"""Measure the time of recalibration, as ratios within one run.

    python -m benchmarks.speed [--network NAME …] [--images 128] [--repeats 3] [--part NAME …]

Parts: `passes` (exact statistics against a pass and update_bn), `adapt` (whole, for short and long
streams), `first` (the first call of a fresh process) and `scaling` (number of images, threads).
Replaces what was measured in benchmarks/results/speed.json, keeps the other parts and networks, and
writes the tables of docs/speed.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import os
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch

import bn_ops
from benchmarks import machine
from benchmarks.networks import NETWORKS
from benchmarks.speed import adapting
from benchmarks.speed.contenders import RATIOS, contenders, exported, random_images
from benchmarks.speed.first_call import calls_of_a_fresh_process
from benchmarks.speed.limits import memory_bandwidth
from benchmarks.speed.store import ResultStore
from benchmarks.speed.table import write_table
from benchmarks.speed.timing import interleaved, ratio_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PAGE = ROOT / "docs" / "speed.md"

_SIZE = 224

_PARTS = ("passes", "adapt", "first", "scaling")

# The network, the numbers of images and the numbers of threads of `scaling`.
_SCALED = "mobilenet_v2"
_SCALED_IMAGES = (32, 64, 128, 256, 512, 1024)
_SCALED_THREADS = (1, 2)


def main() -> None:
    """Measure, print and write the results."""
    options = _options()
    parts = options.part or list(_PARTS)
    networks = options.network or list(NETWORKS)
    about = _about(options)
    store = ResultStore(options.results)
    for name in networks:
        if "passes" in parts:
            store.replace("passes", name, _print(name, _measured(name, options)), about)
    for name in networks:
        if "adapt" in parts and name in adapting.NETWORKS:
            store.replace("adapt", name, _adapted(name, options), about)
    for name in networks:
        if "first" in parts:
            sizes = {"images": options.images, "batch": options.batch, "size": _SIZE}
            model = exported(name, size=_SIZE)
            found = calls_of_a_fresh_process(model, **sizes, threads=options.threads)
            print(f"{name:16} calls of a fresh process: {found}", flush=True)
            store.replace("first", name, found, about)
    if "scaling" in parts and _SCALED in networks:
        store.replace("scaling", _SCALED, _scaled(options), about)
    if options.results == RESULTS:
        write_table(PAGE, store.parts)


def _print(name: str, found: dict[str, Any]) -> dict[str, Any]:
    for column, ratio in found["ratios"].items():
        wall, cpu = ratio["wall"]["median"], ratio["cpu"]["median"]
        print(f"{name:16} {column:42} {wall:6.2f}   (processor time {cpu:.2f})", flush=True)
    return found


def _adapted(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure `adapt` against the exact pass, by number of images."""
    model = exported(name, size=_SIZE)
    found = {}
    for images in adapting.IMAGES:
        arrays = random_images(images, batch=options.batch, size=_SIZE)
        times = interleaved(
            adapting.adaptations(model, arrays, threads=options.threads), options.repeats
        )
        ratios = {
            f"{over} / onnx exact, {images} images": {
                clock: ratio_of(times, over, "onnx exact", clock) for clock in ("wall", "cpu")
            }
            for over in times
            if over != "onnx exact"
        }
        found[str(images)] = _print(name, {"ratios": ratios, "seconds": times})
    return found


def _scaled(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the exact pass by number of images and by number of threads, once each."""
    model = exported(_SCALED, size=_SIZE)
    batch = random_images(options.batch, batch=options.batch, size=_SIZE)

    def seconds(images: int, threads: int) -> float:
        # The same batch again and again: what counts is the number of samples.
        stream = batch * (images // options.batch)
        started = time.perf_counter()
        bn_ops.recalibrate(model, stream, threads=threads, allow_mismatch=True)
        return time.perf_counter() - started

    seconds(_SCALED_IMAGES[0], options.threads)
    images = {str(count): seconds(count, options.threads) for count in _SCALED_IMAGES}
    threads = {str(count): seconds(options.images, count) for count in _SCALED_THREADS}
    print(f"{_SCALED:16} seconds by images {images}, by threads {threads}", flush=True)
    return {"images": images, "threads": threads}


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    runs = contenders(
        name, images=options.images, batch=options.batch, size=_SIZE, threads=options.threads
    )
    times = interleaved(runs, options.repeats)
    ratios = {
        column: {clock: ratio_of(times, over, under, clock) for clock in ("wall", "cpu")}
        for column, (over, under) in RATIOS.items()
        if over in times and under in times
    }
    del runs
    gc.collect()
    return {"ratios": ratios, "seconds": times}


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": machine.commit(),
        "cpu": machine.cpu(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "images": options.images,
        "batch": options.batch,
        "size": _SIZE,
        "repeats": options.repeats,
        "note": options.note,
        "memory_bandwidth": memory_bandwidth(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", action="append", choices=_PARTS)
    parser.add_argument("--note", default="", help="note on the machine, for the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
