"""The report of a run: a tree of frozen values with one versioned JSON form.

The values of the report are the findings themselves: a measurement returns the value that the
report holds. This package imports nothing heavy, so that a report can be built, read and rendered
without onnx, onnxruntime or torch.
"""

from __future__ import annotations

from bn_ops.diagnostics.report.layers import (
    ActivationReport,
    ActivationSummary,
    Confidence,
    DriftSummary,
    LayerReport,
)
from bn_ops.diagnostics.report.predictions import (
    ClassChange,
    EvaluationReport,
    MetricReport,
    PredictionShift,
)
from bn_ops.diagnostics.report.proof import (
    DeployedForm,
    FoldStatus,
    FrozenReport,
    LayerFold,
    OutputParity,
    Parity,
)
from bn_ops.diagnostics.report.run import REPORT_VERSION, Report
from bn_ops.diagnostics.report.stream import (
    Correlation,
    Origin,
    SkippedSample,
    StreamReport,
    Subsample,
)
from bn_ops.diagnostics.report.verdict import (
    Candidate,
    CandidateScore,
    Choice,
    LabeledScore,
    ReasonCode,
    Verdict,
    VerdictCode,
    VerdictReason,
)

__all__ = [
    "REPORT_VERSION",
    "ActivationReport",
    "ActivationSummary",
    "Candidate",
    "CandidateScore",
    "Choice",
    "ClassChange",
    "Confidence",
    "Correlation",
    "DeployedForm",
    "DriftSummary",
    "EvaluationReport",
    "FoldStatus",
    "FrozenReport",
    "LabeledScore",
    "LayerFold",
    "LayerReport",
    "MetricReport",
    "Origin",
    "OutputParity",
    "Parity",
    "PredictionShift",
    "ReasonCode",
    "Report",
    "SkippedSample",
    "StreamReport",
    "Subsample",
    "Verdict",
    "VerdictCode",
    "VerdictReason",
]
