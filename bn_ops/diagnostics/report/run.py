"""The report of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from bn_ops.core.json_form import Json, json_object, jsonable
from bn_ops.diagnostics.report.layers import LayerReport
from bn_ops.diagnostics.report.predictions import EvaluationReport, MetricReport, PredictionShift
from bn_ops.diagnostics.report.proof import DeployedForm, FrozenReport, LayerFold, Parity
from bn_ops.diagnostics.report.stream import Origin, SkippedSample, StreamReport
from bn_ops.diagnostics.report.verdict import Choice, Verdict
from bn_ops.input_check.result import InputCheck

__all__ = ["REPORT_VERSION", "Report"]

REPORT_VERSION = 2
"""Version of the JSON form; it changes only if a member is removed or changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run.

    Attributes:
        bnrecal: version of this package.
        engine: `onnx` or `torch`.
        method: `exact` or `batch`.
        estimator: JSON form of the estimator.
        layers_selected: the patterns given, or None for all layers.
        source_sha256: digest of the source model (None for a torch module).
        stream: what was read.
        layers: every layer of the model, in order of execution.
        frozen: evidence that nothing else changed.
        timings: phase → seconds.
        warnings: sentences.
        fold, parity: added by `adapt`.
        prediction_shift: how the outputs of a classification head changed; None where the two
            models were not compared or no output is such a head.
        evaluation: the error on labeled samples; None where none were given.
        metric: the caller's metric on labeled samples; None where none was given.
        choice: how the estimator `Auto` chose the statistics; None for other estimators.
        verdict: whether to deploy the model; None where the models were not compared.
        input_check: the first samples compared with what the first layers store; None where they
            could not be compared.
        skipped_samples: bad samples that the sender of the stream left out.
        origin: when and from what the report was made. Only this and `timings` differ between two
            runs on the same input.
        deployed: opset and target of the folded model; added by `adapt`.

    Within one version fields are only added, each with a default, so that a reader of a version can
    read every report of that version.
    """

    bnrecal: str
    engine: str
    method: str
    estimator: Mapping[str, str | int | float | bool]
    layers_selected: tuple[str, ...] | None
    source_sha256: str | None
    stream: StreamReport
    layers: tuple[LayerReport, ...]
    frozen: FrozenReport
    timings: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    fold: tuple[LayerFold, ...] | None = None
    parity: Parity | None = None
    prediction_shift: PredictionShift | None = None
    evaluation: EvaluationReport | None = None
    metric: MetricReport | None = None
    choice: Choice | None = None
    verdict: Verdict | None = None
    input_check: InputCheck | None = None
    deployed: DeployedForm | None = None
    skipped_samples: tuple[SkippedSample, ...] = ()
    origin: Origin = field(default_factory=Origin)

    def described(
        self,
        *,
        model_name: str | None = None,
        data_name: str | None = None,
        command: str | None = None,
        skipped_samples: tuple[SkippedSample, ...] = (),
    ) -> Report:
        """Return the report with information of the caller; None keeps a name as it is."""
        known = self.origin
        return replace(
            self,
            origin=replace(
                known,
                model_name=model_name or known.model_name,
                data_name=data_name or known.data_name,
                command=command or known.command,
            ),
            skipped_samples=skipped_samples or self.skipped_samples,
        )

    def to_json(self) -> dict[str, Json]:
        """Return the versioned JSON form; NaN and infinities become null."""
        return {
            "report": REPORT_VERSION,
            **{f.name: jsonable(getattr(self, f.name)) for f in fields(self)},
            "frozen": {**json_object(self.frozen), "unchanged": self.frozen.unchanged},
        }
