"""The first call of a fresh process, compared with its later calls.

    python -m benchmarks.speed.first_call MODEL.onnx --images 128 --batch 16 --threads 2

Prints the wall seconds of the import and of each call of `bn_ops.recalibrate` as JSON. The model is
a file, so that nothing but bn_ops is loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["calls_of_a_fresh_process"]

_CALLS = 4


def calls_of_a_fresh_process(
    model: onnx.ModelProto, *, images: int, batch: int, size: int, threads: int
) -> dict[str, float | list[float]]:
    """Return the seconds of the import and of each call, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        sizes = {"images": images, "batch": batch, "size": size, "threads": threads}
        options = [f"--{name}={value}" for name, value in sizes.items()]
        command = [sys.executable, "-m", "benchmarks.speed.first_call", str(path), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float | list[float]] = json.loads(done.stdout)
    return found


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.first_call")
    parser.add_argument("model")
    for name in ("images", "batch", "size", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()

    started = time.perf_counter()
    import numpy as np  # noqa: PLC0415 - the import is timed

    import bn_ops  # noqa: PLC0415

    imported = time.perf_counter() - started
    rng = np.random.default_rng(0)
    shape = (options.batch, 3, options.size, options.size)
    arrays = [
        rng.normal(0, 1, shape).astype(np.float32) for _ in range(options.images // options.batch)
    ]
    calls = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        bn_ops.recalibrate(options.model, arrays, threads=options.threads)
        calls.append(time.perf_counter() - started)
    print(json.dumps({"import": imported, "calls": calls}))


if __name__ == "__main__":
    _main()
