"""Judge a folded file: whether it is valid and equivalent, and how much was folded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from bn_ops.onnx_files.session import session
from tests.conformance.fold.building import Array, Case

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Verdict", "judged"]

Run = Callable[[onnx.ModelProto, dict[str, Array]], list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of one tool on one graph.

    Attributes:
        outcome: `folded` (fewer layers, same function), `left` (all layers, same function),
            `wrong`, `invalid`, `crashed`, or `unchecked` if no runtime runs the graph.
        layers: number of layers removed.
        nodes: nodes of the folded main graph.
        error: largest difference over all batches, relative to the largest output value.
        reason: description of the failure.
    """

    outcome: str
    layers: int = 0
    nodes: int = 0
    error: float | None = None
    reason: str = ""


def judged(case: Case, path: Path) -> Verdict:
    """Judge a file in a child process: some of these files crash the runtimes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        verdict = _judged(case, path)
        os.write(writing, json.dumps(asdict(verdict)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return (
        Verdict(**json.loads(text))
        if text
        else Verdict(outcome="invalid", reason="crashed the runtime")
    )


def _judged(case: Case, path: Path) -> Verdict:
    if not path.exists():
        note = path.with_suffix(".txt")
        return Verdict(outcome="crashed", reason=note.read_text() if note.exists() else "")
    original, candidate = case.build(), onnx.load(path)
    gone = _layers(original) - _layers(candidate)
    verdict = _compared(case, original, candidate, gone)
    return replace(verdict, layers=gone, nodes=len(candidate.graph.node))


def _compared(
    case: Case, original: onnx.ModelProto, candidate: onnx.ModelProto, gone: int
) -> Verdict:
    fault = _invalid(candidate) if case.valid else None
    if fault is not None:
        return fault
    run = _in_onnxruntime if case.runs else _in_reference
    if not (case.runs or case.reference):
        return Verdict(outcome="unchecked", reason="no runtime supports this graph")
    try:
        wanted = [run(original, batch) for batch in case.batches(original)]
    except Exception as error:  # noqa: BLE001 - no runtime runs this graph
        return Verdict(outcome="unchecked", reason=str(error)[:300])
    try:
        found = [run(candidate, batch) for batch in case.batches(original)]
    except Exception as error:  # noqa: BLE001 - any error of the runtime is a result
        return _not_running(original, candidate, error)
    pairs = [
        (want, got)
        for wants, gots in zip(wanted, found, strict=True)
        for want, got in zip(wants, gots, strict=True)
    ]
    worst = max(_error(want, got) for want, got in pairs)
    if worst > case.tolerance:
        return Verdict(outcome="wrong", error=min(worst, 1e30), reason="different outputs")
    return Verdict(outcome="folded" if gone > 0 else "left", error=worst)


def _invalid(candidate: onnx.ModelProto) -> Verdict | None:
    try:
        onnx.checker.check_model(candidate, full_check=True)
    except Exception as error:  # noqa: BLE001 - the checker raises several kinds
        return Verdict(outcome="invalid", reason=str(error)[:300])
    return None


def _not_running(
    original: onnx.ModelProto, candidate: onnx.ModelProto, error: Exception
) -> Verdict:
    lost = {v.name for v in original.graph.input} - {v.name for v in candidate.graph.input}
    if lost and original.ir_version > 3:
        return Verdict(outcome="wrong", reason=f"lost the inputs {sorted(lost)}")
    return Verdict(outcome="invalid", reason=str(error)[:300])


def _layers(model: onnx.ModelProto) -> int:
    nodes = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    return sum(node.op_type == "BatchNormalization" for node in nodes)


def _in_onnxruntime(model: onnx.ModelProto, batch: dict[str, Array]) -> list[Any]:
    return session(model.SerializeToString(), threads=1, optimize=False).run(None, batch)


def _in_reference(model: onnx.ModelProto, batch: dict[str, Array]) -> list[Any]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, batch))


def _error(want: Array, got: Array) -> float:
    if want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    ours, theirs = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    finite = np.isfinite(theirs)
    scale = max(float(np.abs(theirs[finite]).max(initial=0.0)), 1e-6)
    return float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0)) / scale
