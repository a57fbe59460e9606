"""Run one folding tool over a folder of ONNX files, each file in its own process.

It runs in an interpreter that has the other tools, and imports nothing from this repository.

    python tools.py TOOL INPUT_FOLDER OUTPUT_FOLDER

Writes OUTPUT_FOLDER/<name>.onnx for each success and OUTPUT_FOLDER/<name>.txt with the reason for
each failure; OUTPUT_FOLDER/version.txt holds the tool's version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import onnx

Tool = Callable[[onnx.ModelProto], onnx.ModelProto]


def _onnxscript() -> Tool:
    rewrite: Tool = import_module("onnxscript.rewriter").rewrite
    return rewrite


def _onnxslim() -> Tool:
    slim: Tool = import_module("onnxslim").slim
    return slim


def _onnxoptimizer() -> Tool:
    onnxoptimizer = import_module("onnxoptimizer")
    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    return lambda model: onnxoptimizer.optimize(model, passes, fixed_point=True)


def _onnxsim() -> Tool:
    simplify = import_module("onnxsim").simplify
    return lambda model: simplify(model)[0]


def _onnxruntime() -> Tool:
    onnxruntime = import_module("onnxruntime")

    def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # The highest level that writes only standard operators.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        path = f"/tmp/folding_{os.getpid()}.onnx"
        options.optimized_model_filepath = path
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(path)

    return optimize


TOOLS: dict[str, Callable[[], Tool]] = {
    "onnxscript": _onnxscript,
    "onnxslim": _onnxslim,
    "onnxoptimizer": _onnxoptimizer,
    "onnxruntime": _onnxruntime,
    "onnxsim": _onnxsim,
}


def _one(tool: Tool, source: Path, target: Path) -> int:
    """Run the tool in a child process, so that a crash affects one file only."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 0
    try:
        onnx.save(tool(onnx.load(source)), target)
    except BaseException as error:  # noqa: BLE001 - whatever the tool raises is the finding
        target.with_suffix(".txt").write_text(f"{type(error).__name__}: {error}"[:2000])
        code = 1
    os._exit(code)


def main() -> None:
    """Run one tool over one folder."""
    name, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    tool = TOOLS[name]()
    target.mkdir(parents=True)
    (target / "version.txt").write_text(version(name))
    for path in sorted(source.glob("*.onnx")):
        result = target / path.name
        status = _one(tool, path, result)
        if os.WIFSIGNALED(status):
            result.with_suffix(".txt").write_text(f"ended by signal {os.WTERMSIG(status)}")


if __name__ == "__main__":
    main()
