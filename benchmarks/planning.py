"""Compare what `bnrecal plan` predicts with what runs of the same network need.

    python -m benchmarks.planning [--network NAME …] [--samples 256] [--size 160]

Each prediction and each run has a process of its own. Networks that are not named keep the results
of an earlier call. Writes benchmarks/results/planning.json and the table of docs/sharding.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import machine
from benchmarks.accuracy.results import replace_marked
from bn_ops.core.estimators import Replace
from bn_ops.core.frontier import commit_layers
from bn_ops.core.options import Budget, silent
from bn_ops.core.signature import Batch
from bn_ops.engines.onnx import OnnxFrontier, prepare
from bn_ops.engines.onnx.describe import describe_prepared
from bn_ops.onnx_files.load import load_model
from bn_ops.pipeline.cost import Machine, SampleCost, measure_cost

__all__ = ["run_model", "table"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "planning.json"
PAGE = ROOT / "docs" / "sharding.md"

_BATCH = 32
_AMPLE = 1 << 40
_MB = 1e6
_WHOLE = 100.0


def main() -> None:
    """Measure, print and write the results; with `--run`, measure one run."""
    options = _options()
    if options.run is not None:
        print(json.dumps(run_model(**json.loads(options.run))))
        return
    about = _about(options)
    networks = json.loads(RESULTS.read_text())["networks"] if RESULTS.is_file() else {}
    for name in options.network:
        networks[name] = {"about": about, **_compared(name, options)}
        print(json.dumps({name: networks[name]}), flush=True)
        RESULTS.write_text(json.dumps({"networks": networks}, indent=1) + "\n")
    replace_marked("planning", PAGE, "\n".join(table(networks)))


def _compared(name: str, options: argparse.Namespace) -> dict[str, Any]:
    # Imports torch, which would count as memory of the runs.
    from benchmarks.speed.contenders import exported  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="bnrecal-planning-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(exported(name, size=options.size), path)
        common = {"model": str(path), "size": options.size}
        cost = _child(**common, samples=0)["cost"]
        half = options.samples * cost["waiting_bytes"] // 2
        runs = {
            "in memory": _child(**common, samples=options.samples),
            "half in files": _child(**common, samples=options.samples, memory_bytes=half),
            "two threads": _child(**common, samples=options.samples, threads=2),
        }
    return {"samples": options.samples, "half": half, "cost": cost, "runs": runs}


def _child(**arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.planning", "--run", json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_model(
    model: str, size: int, samples: int, *, threads: int = 1, memory_bytes: int = _AMPLE
) -> dict[str, Any]:
    """Run samples through a network as a recalibration does, and return what that needed.

    Args:
        model: an ONNX file with one input of images.
        size: height and width of the images.
        samples: number of samples, a multiple of 32; 0 returns the cost of a sample that
            `bnrecal plan` measures.
        threads: threads of the run.
        memory_bytes: the budget of the run; what exceeds it is spilled.
    """
    if not samples:
        return {"cost": measure_cost(model, shape=(3, size, size)).to_json()}
    prepared = prepare(load_model(model))
    (image,) = describe_prepared(prepared).inputs
    spent: list[float] = []
    started, busy, written = time.perf_counter(), time.process_time(), _written_bytes()
    with OnnxFrontier(
        prepared,
        _images(samples, size, image.name, spent),
        layers=prepared.eligible,
        budget=Budget(memory_bytes=memory_bytes, spill_bytes=_AMPLE),
        progress=silent,
        threads=threads,
    ) as frontier:
        commit_layers(frontier, prepared.eligible, Replace())
        return {
            "memory_bytes": frontier.store.peak_memory_bytes,
            "spill_bytes": frontier.store.peak_spill_bytes,
            "written_bytes": _written_bytes() - written,
            "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "core_seconds": time.process_time() - busy - sum(spent),
            "seconds": time.perf_counter() - started,
        }


def _images(samples: int, size: int, name: str, spent: list[float]) -> Iterator[Batch]:
    """Yield generated batches; append the processor time that each takes."""
    rng = np.random.default_rng(0)
    for _ in range(samples // _BATCH):
        started = time.process_time()
        batch = {name: rng.standard_normal((_BATCH, 3, size, size), dtype=np.float32)}
        spent.append(time.process_time() - started)
        yield batch


def _written_bytes() -> int:
    """Return the bytes that this process has written to files, on Linux."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


def table(networks: Mapping[str, Any]) -> list[str]:
    """Return the comparison as lines of Markdown."""
    about = next(iter(networks.values()))["about"]
    head = (
        *("network", "images", "waiting MB", "in files MB", "written MB"),
        *("core-s, one thread", "core-s, two threads", "process beyond waiting MB"),
    )
    where = f"{about['date']}, {about['cpu']}, {about['cores']} cores"
    size = f"{about['size']}x{about['size']}"
    return [
        f"{where}; images of {size}. Predicted → measured, in files with half the memory.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(_row(name, found) for name, found in networks.items()),
    ]


def _row(name: str, found: Mapping[str, Any]) -> str:
    cost = SampleCost(**{key: found["cost"][key] for key in SampleCost.__annotations__})
    runs, samples = found["runs"], found["samples"]
    one, spilled, two = (runs[key] for key in ("in memory", "half in files", "two threads"))
    ample = Machine(cores=1, memory_bytes=_AMPLE)
    whole = cost.run(samples, ample, nodes=1)
    tight = cost.run(samples, Machine(cores=1, memory_bytes=found["half"]), nodes=1)
    cells = [
        f"{samples}",
        _pair(whole.memory_bytes / _MB, one["memory_bytes"] / _MB),
        _pair(tight.spill_bytes / _MB, spilled["spill_bytes"] / _MB),
        # Files that an in-memory run writes, too, are not those of tensors.
        _pair(tight.file_bytes / 2 / _MB, (spilled["written_bytes"] - one["written_bytes"]) / _MB),
        _pair(whole.compute_seconds, one["core_seconds"]),
        _pair(whole.compute_seconds, two["core_seconds"]),
        f"{(one['process_bytes'] - one['memory_bytes']) / _MB:,.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _pair(predicted: float, measured: float) -> str:
    error = 100 * (measured / predicted - 1)
    return f"{_number(predicted)} → {_number(measured)} ({error:+.0f} %)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE else f"{value:.3g}"


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **machine.about(),
        "size": options.size,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning")
    known = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121")
    parser.add_argument("--network", nargs="*", choices=known, default=known)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
