"""Measure the time of recalibration, as ratios within one run.

    python -m benchmarks.speed [--network NAME …] [--images 128] [--repeats 3] [--only-onnx]

Writes benchmarks/results/speed.json and the table of docs/speed.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import os
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks import machine
from benchmarks.networks import NETWORKS
from benchmarks.speed.contenders import RATIOS, contenders
from benchmarks.speed.table import write_table
from benchmarks.speed.timing import interleaved, ratio_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PAGE = ROOT / "docs" / "speed.md"

_SIZE = 224


def main() -> None:
    """Measure, print and write the results."""
    options = _options()
    results: dict[str, Any] = {"about": _about(options), "networks": {}}
    for name in options.network or list(NETWORKS):
        found = _measured(name, options)
        results["networks"][name] = found
        for column, ratio in found["ratios"].items():
            wall, cpu = ratio["wall"]["median"], ratio["cpu"]["median"]
            print(f"{name:16} {column:42} {wall:6.2f}   (processor time {cpu:.2f})", flush=True)
        # Written after each network: an interrupted run keeps its results.
        options.results.parent.mkdir(exist_ok=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    if options.results == RESULTS:
        write_table(PAGE, results)


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    runs = contenders(
        name, images=options.images, batch=options.batch, size=_SIZE, threads=options.threads
    )
    if options.only_onnx:
        runs = {key: run for key, run in runs.items() if key.startswith("onnx")}
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
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-onnx", action="store_true")
    parser.add_argument("--note", default="", help="note on the machine, for the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
