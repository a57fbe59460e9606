"""Compare folding with other tools, on the graphs of the conformance tests and on networks.

    python -m benchmarks.folding [--peers PYTHON] [--only cases|networks]

The tools of requirements.txt are installed into a temporary environment, unless `--peers` names an
interpreter that has them. Writes benchmarks/results/folding.json and the tables of docs/folding.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import venv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from benchmarks.folding.judging import Verdict, judged
from benchmarks.folding.latency import latencies, lower_quartile, paired_ratio
from benchmarks.folding.networks import NETWORKS
from benchmarks.folding.tables import write_tables
from bn_ops.core.version import __version__
from bn_ops.folding import fold
from tests.conformance.fold.all_cases import ALL_CASES

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "folding.json"
TOOLS = ("onnxscript", "onnxslim", "onnxoptimizer", "onnxruntime", "onnxsim")
OURS = "bnrecal"
VALID_CASES = [case for case in ALL_CASES if case.valid]


def main() -> None:
    """Measure and write the results."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        peers = options.peers or _install(work / "peers")
        results: dict[str, Any] = {"machine": platform.machine(), "onnx": onnx.__version__}
        if RESULTS.exists() and options.only is not None:
            results = json.loads(RESULTS.read_text())
        if options.only != "networks":
            results["cases"] = _cases(work, peers)
            results["tolerances"] = {case.name: case.tolerance for case in VALID_CASES}
        if options.only != "cases":
            results["networks"] = _networks(work, peers)
        results["versions"] = {OURS: __version__} | {
            path.parent.name: path.read_text() for path in sorted(work.rglob("version.txt"))
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write_tables(ROOT / "docs" / "folding.md", results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", help="Python interpreter with the other tools")
    parser.add_argument(
        "--only",
        choices=("cases", "networks"),
        help="measure only one half and keep the other results",
    )
    return parser.parse_args()


def _install(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    wanted = str(Path(__file__).with_name("requirements.txt"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", wanted], check=True)
    return python


def _cases(work: Path, peers: str) -> dict[str, dict[str, Any]]:
    files = {f"{number:03}": case for number, case in enumerate(VALID_CASES)}
    _fold_all(work / "cases", {name: case.build() for name, case in files.items()}, peers)
    return {
        case.name: {
            tool: asdict(judged(case, work / "cases" / tool / f"{name}.onnx"))
            for tool in (OURS, *TOOLS)
        }
        for name, case in files.items()
    }


def _networks(work: Path, peers: str) -> dict[str, Any]:
    return {name: _network(work / "networks" / name, name, peers) for name in NETWORKS}


def _network(folder: Path, name: str, peers: str) -> dict[str, Any]:
    _fold_all(folder, {name: NETWORKS[name]()}, peers)
    files = {"unfolded": folder / "original" / f"{name}.onnx"}
    files |= {tool: folder / tool / f"{name}.onnx" for tool in (OURS, *TOOLS)}
    files = {tool: path for tool, path in files.items() if path.exists()}
    times = latencies(files)
    return {
        "layers": _count(files["unfolded"], "BatchNormalization"),
        "seconds": {tool: lower_quartile(found) for tool, found in times.items()},
        "ratio": {tool: paired_ratio(times[OURS], found) for tool, found in times.items()},
        "nodes": {tool: _count(path) for tool, path in files.items()},
        "left": {tool: _count(path, "BatchNormalization") for tool, path in files.items()},
    }


def _count(path: Path, op: str | None = None) -> int:
    nodes = onnx.load(path).graph.node
    return sum(op is None or node.op_type == op for node in nodes)


def _fold_all(folder: Path, models: Mapping[str, onnx.ModelProto], peers: str) -> None:
    """Write the original files and the files of every tool."""
    original, ours = folder / "original", folder / OURS
    original.mkdir(parents=True)
    ours.mkdir()
    for name, model in models.items():
        onnx.save(model, original / f"{name}.onnx")
        onnx.save(fold(model).model, ours / f"{name}.onnx")
    script = str(Path(__file__).with_name("tools.py"))
    for tool in TOOLS:
        command = [peers, script, tool, str(original), str(folder / tool)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


__all__ = ["Verdict", "main"]

if __name__ == "__main__":
    main()
