"""Result of the demo, and its text form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from examples.digits.data import LabeledImages

__all__ = ["Outcome", "error_percent", "format_outcome"]

BAR_WIDTH = 40  # characters of 100 % error
LAYERS_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of the demo.

    Attributes:
        before, after: error on the held-out digits in percent.
        held_out: number of held-out digits.
        seconds: time from the upload to the downloaded result.
        report: the recalibration report in JSON form.
        files: the written files.
    """

    before: float
    after: float
    held_out: int
    seconds: float
    report: Mapping[str, Any]
    files: Sequence[Path]

    @property
    def gained(self) -> float:
        """Decrease of the error in percentage points."""
        return self.before - self.after


def error_percent(model: bytes, data: LabeledImages) -> float:
    """Return the classification error of an ONNX file in percent, computed by onnxruntime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {session.get_inputs()[0].name: data.images})
    return float(100 * np.mean(np.argmax(logits, axis=1) != data.labels))


def format_outcome(outcome: Outcome) -> str:
    """Format the outcome in lines of at most 80 characters (except paths)."""
    lines = [
        f"error on {outcome.held_out} digits that were not in the stream",
        _bar("before", outcome.before),
        _bar("after", outcome.after),
        "",
        *_drift(outcome.report),
        "",
        *_proof(outcome.report),
        f"time      {outcome.seconds:.1f} s over HTTP: {_phases(outcome.report)}",
        "",
        *(f"wrote     {path}" for path in outcome.files),
    ]
    return "\n".join(lines)


def _bar(name: str, percent: float) -> str:
    return f"  {name:6}  {percent:5.1f} %  {'█' * round(BAR_WIDTH * percent / 100)}"


def _drift(report: Mapping[str, Any]) -> list[str]:
    measured = [layer for layer in report["layers"] if layer["drift"] is not None]
    ordered = sorted(measured, key=lambda layer: -layer["drift"]["wasserstein"])
    width = max(len(layer["name"]) for layer in ordered[:LAYERS_SHOWN])
    head = f"{'layers that drifted most':{width + 2}}  distance  mean moved   variance changed"
    return [head, *(_layer(layer, width) for layer in ordered[:LAYERS_SHOWN])]


def _layer(layer: Mapping[str, Any], width: int) -> str:
    drift = layer["drift"]
    factor = np.exp(drift["log_var_ratio_median"])
    indent = max(width, len("layers that drifted most") - 2)
    return (
        f"  {layer['name']:{indent}}  {drift['wasserstein']:6.3f} σ"
        f"  {drift['mean_shift_median']:8.3f} σ   ×{factor:.2f} (median)"
    )


def _proof(report: Mapping[str, Any]) -> list[str]:
    parity, fold, frozen = report["parity"], report["fold"], report["frozen"]
    folded = sum(layer["status"] == "folded" for layer in fold)
    held = "unchanged" if frozen["unchanged"] else "CHANGED"
    verdict = "passed" if parity["passed"] else "FAILED"
    limit = max([parity["tolerance"], *(output["allowed"] for output in parity["outputs"])])
    error = parity["max_relative_error"]
    lines = [
        f"stream    {report['stream']['samples']} digits in {report['stream']['batches']} batches",
        f"folded    {folded} of {len(fold)} layers",
        f"parity    {verdict}; folding changes outputs by at most {error:.1e} (limit {limit:.0e})",
        f"frozen    {len(frozen['tensors'])} other tensors {held} by sha256",
    ]
    return lines + [f"warning   {sentence}" for sentence in report["warnings"]]


def _phases(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in report["timings"].items())
