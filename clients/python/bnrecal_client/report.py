"""The JSON form of a report, for type checkers; docs/report.md describes the members.

A report may come from another version, so every member may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

__all__ = [
    "DriftForm",
    "EvaluationForm",
    "FoldForm",
    "LayerForm",
    "MetricForm",
    "ParityForm",
    "PredictionShiftForm",
    "Report",
    "StreamForm",
    "VerdictForm",
    "VerdictReasonForm",
]


class DriftForm(TypedDict, total=False):
    """How far a layer's statistics moved, in units of the source's σ."""

    mean_shift_median: float
    mean_shift_max: float
    log_var_ratio_median: float
    log_var_ratio_max: float
    wasserstein: float


class LayerForm(TypedDict, total=False):
    """One BatchNorm layer."""

    name: str
    status: str
    reason: str | None
    channels: int | None
    samples: int | None
    count: int | None
    drift: DriftForm | None
    confidence: Mapping[str, Any] | None
    dead_channels: Sequence[int]
    silenced_channels: Sequence[int]
    amplification: float | None
    residual_mean: float | None
    residual_var: float | None
    activations: Mapping[str, Any] | None


class StreamForm(TypedDict, total=False):
    """The data that the statistics come from."""

    batches: int
    samples: int
    correlation: Mapping[str, Any] | None
    sha256: str | None
    subsample: Mapping[str, Any] | None


class FoldForm(TypedDict, total=False):
    """How one layer was folded."""

    name: str
    status: Literal["folded", "kept"]
    rule: str | None
    reason: str | None


class ParityForm(TypedDict, total=False):
    """How far the folded and the unfolded model differ."""

    outputs: Sequence[Mapping[str, Any]]
    samples: int
    tolerance: float
    passed: bool
    max_relative_error: float
    reference: str
    notes: Sequence[str]


class PredictionShiftForm(TypedDict, total=False):
    """A classification head before and after, on the same samples."""

    output: str
    samples: int
    classes: int
    agreement: float
    entropy_change: float
    effective_classes_before: float
    effective_classes_after: float
    less_certain: bool
    collapsed: bool
    changes: Sequence[Mapping[str, Any]]
    confidence_before: float | None
    confidence_after: float | None


class EvaluationForm(TypedDict, total=False):
    """The error on labeled samples before and after."""

    output: str
    samples: int
    labels: int
    error_before: float
    error_after: float
    newly_wrong: int
    newly_right: int
    p_value: float | None
    change_low: float | None
    change_high: float | None


class MetricForm(TypedDict, total=False):
    """The caller's metric on labeled samples before and after."""

    samples: int
    before: float
    after: float
    change_low: float | None
    change_high: float | None


class VerdictReasonForm(TypedDict, total=False):
    """One reason for a verdict."""

    code: str
    text: str


class VerdictForm(TypedDict, total=False):
    """Whether to deploy the model."""

    code: Literal["deploy", "check-with-labels", "do-not-deploy"]
    sentence: str
    reasons: Sequence[VerdictReasonForm]
    next_steps: Sequence[str]


class Report(TypedDict, total=False):
    """The report of a recalibration."""

    report: int
    bnrecal: str
    engine: str
    method: Literal["exact", "batch"]
    estimator: Mapping[str, str | int | float | bool]
    layers_selected: Sequence[str] | None
    source_sha256: str | None
    stream: StreamForm
    layers: Sequence[LayerForm]
    frozen: Mapping[str, Any]
    timings: Mapping[str, float]
    warnings: Sequence[str]
    fold: Sequence[FoldForm] | None
    parity: ParityForm | None
    prediction_shift: PredictionShiftForm | None
    evaluation: EvaluationForm | None
    metric: MetricForm | None
    choice: Mapping[str, Any] | None
    verdict: VerdictForm | None
    input_check: Mapping[str, Any] | None
    skipped_samples: Sequence[Mapping[str, Any]]
    origin: Mapping[str, Any]
    deployed: Mapping[str, Any] | None
