"""The report of a run: a tree of frozen values with one versioned JSON form.

The values of the report are the findings themselves: a measurement returns the value that the
report holds. This module imports nothing heavy, so that a report can be built, read and rendered
without onnx, onnxruntime or torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Literal

from bn_ops.core.json_form import Json, json_object, jsonable
from bn_ops.errors import OptionError
from bn_ops.input_check.result import InputCheck

__all__ = [
    "REPORT_VERSION",
    "ActivationReport",
    "ActivationSummary",
    "Candidate",
    "CandidateScore",
    "Choice",
    "Confidence",
    "Correlation",
    "DriftSummary",
    "EvaluationReport",
    "FoldStatus",
    "FrozenReport",
    "LabeledScore",
    "LayerFold",
    "LayerReport",
    "MetricReport",
    "OutputParity",
    "Parity",
    "PredictionShift",
    "ReasonCode",
    "Report",
    "StreamReport",
    "Verdict",
    "VerdictCode",
    "VerdictReason",
]

REPORT_VERSION = 2

FoldStatus = Literal["folded", "kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How strongly neighboring samples of the stream resemble each other.

    Measured by `bn_ops.diagnostics.autocorrelation`.

    Attributes:
        blocks, block_samples: number of contiguous blocks compared, and samples per block.
        design_effect: variance of block means divided by that of independent samples; about 1
            without correlation, at most `block_samples`.
        error_ratio: standard error over blocks divided by that over samples, √design_effect.
        effective_samples: number of independent samples that carry the same information; at most
            the number of samples.
        suspicious: whether the effect is large enough, and unlikely enough by chance, to warn.
    """

    blocks: int
    block_samples: int
    design_effect: float
    error_ratio: float
    effective_samples: int
    suspicious: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """The stream of batches.

    Attributes:
        batches, samples: number of batches and samples read.
        correlation: None for a stream that is too short or constant.
    """

    batches: int
    samples: int
    correlation: Correlation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionShift:
    """A classification head before and after, on the same calibration samples.

    Computed by `bn_ops.diagnostics.before_after`.

    Attributes:
        output: name of the output.
        samples, classes: number of samples N and of classes K.
        agreement: share of samples whose most likely class did not change.
        entropy_change: mean entropy of the class probabilities, after minus before, in nats.
        effective_classes_before, effective_classes_after: effective number of predicted classes,
            between 1 and K.
        less_certain: whether the entropy rose enough to warn.
        collapsed: whether the effective number of classes fell enough to warn.
    """

    output: str
    samples: int
    classes: int
    agreement: float
    entropy_change: float
    effective_classes_before: float
    effective_classes_after: float
    less_certain: bool
    collapsed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """The error on labeled samples before and after; see `bn_ops.diagnostics.labeled_error`.

    Attributes:
        output: the output that was scored; the prediction is the class with the largest score
            along axis 1.
        samples, labels: number of samples, and of labels (more with one label per position).
        error_before, error_after: share of the labels predicted wrongly.
        newly_wrong, newly_right: predictions that became wrong, and right.
        p_value: probability of an imbalance at least as large if both changes were equally likely
            (exact sign test); None for labels per position, which are not independent.
        change_low, change_high: 95 % confidence interval of the change of the accuracy.
    """

    output: str
    samples: int
    labels: int
    error_before: float
    error_after: float
    newly_wrong: int
    newly_right: int
    p_value: float | None
    change_low: float | None = None
    change_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReport:
    """The caller's metric on labeled samples before and after; see `bn_ops.diagnostics.metric`.

    Attributes:
        samples: number of samples.
        before, after: the metric; higher is better.
        change_low, change_high: 95 % confidence interval of after - before, from a paired
            bootstrap over samples; None where too few resamples gave a number.
    """

    samples: int
    before: float
    after: float
    change_low: float | None
    change_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSummary:
    """How far a layer's statistics moved, over its channels, in units of the source's √(σ² + ε).

    Attributes:
        mean_shift_median, mean_shift_max: |Δμ|/σs.
        log_var_ratio_median, log_var_ratio_max: |ln((σt² + ε)/(σs² + ε))|.
        wasserstein: root mean square over channels of the 2-Wasserstein distance between the two
            normal distributions, √(Δμ² + Δσ²)/σs (Dowson & Landau 1982, one dimension).
    """

    mean_shift_median: float
    mean_shift_max: float
    log_var_ratio_median: float
    log_var_ratio_max: float
    wasserstein: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """How precisely one layer's statistics are known; see `bn_ops.diagnostics.build_report`.

    Attributes:
        mean_error: z·SE(μ)/σ, half of the 95 % confidence interval of the mean in units of σ: the
            quantile over live channels at which convergence is decided.
        scale_error: z·SE(σ²)/(2σ²) at the same quantile: the relative error of the layer's scale.
        samples_needed: estimated number of samples for which both reach the target error,
            including the 1/n bias.
    """

    mean_error: float
    scale_error: float
    samples_needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSummary:
    """A layer's input, summarized over its channels.

    Attributes:
        mean: average over channels of the input's mean.
        spread: root mean square over channels of its standard deviation.
        normalized_shift: median over channels of |mean - stored mean| / √(stored var + ε); 0 where
            the layer's statistics fit.
        normalized_spread: median over channels of √(var / (stored var + ε)); 1 where they fit.
    """

    mean: float
    spread: float
    normalized_shift: float
    normalized_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationReport:
    """A layer's input on the first samples of the stream, in two runs of the whole network.

    Attributes:
        samples: number of samples that reached the layer.
        before: with the source statistics in every layer.
        after: with the new statistics.
    """

    samples: int
    before: ActivationSummary
    after: ActivationSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One BatchNorm layer.

    Attributes:
        name: the layer.
        status: `recalibrated`, `unchanged` (`Auto` kept the source statistics), `excluded` (by a
            pattern), `unreached` (no batch reached it) or `unsupported`.
        reason: why the layer was not recalibrated, as text.
        channels: C.
        samples, count: samples and values per channel measured.
        drift: how far the statistics moved.
        confidence: how precisely they are known; None below two samples or without a live channel.
        dead_channels: channels without variance in both domains, which keep their variance.
        silenced_channels: channels that lost their variance in the target domain only; they keep
            the source's.
        amplification: largest gain ratio of a channel, new over old.
        residual_mean, residual_var: distance from its own fixed point of a layer that is used
            several times per pass; None elsewhere.
        activations: the layer's input before and after; None where the two were not compared.
    """

    name: str
    status: str
    reason: str | None = None
    channels: int | None = None
    samples: int | None = None
    count: int | None = None
    drift: DriftSummary | None = None
    confidence: Confidence | None = None
    dead_channels: tuple[int, ...] = ()
    silenced_channels: tuple[int, ...] = ()
    amplification: float | None = None
    residual_mean: float | None = None
    residual_var: float | None = None
    activations: ActivationReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenReport:
    """Every tensor of the model that must not change.

    Attributes:
        tensors: name → sha256 before the run.
        sha256_before, sha256_after: one digest over all of them.
    """

    tensors: Mapping[str, str]
    sha256_before: str
    sha256_after: str

    @property
    def unchanged(self) -> bool:
        """Return whether the two digests are equal."""
        return self.sha256_before == self.sha256_after


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFold:
    """The outcome of folding one BatchNormalization node.

    Attributes:
        name: name of the layer: of its node, or of the node's first output where it has none.
        status: `folded` when no operator computes the layer any more, else `kept`.
        rule: the rules that absorbed it, from the layer outwards (`conv`, `concat/conv`,
            `next-gemm`); `mul-add` for a kept layer that was rewritten as Mul and Add; else None.
        reason: why the layer was kept, as text; None when it was folded.
    """

    name: str
    status: FoldStatus
    rule: str | None
    reason: str | None

    def __post_init__(self) -> None:
        if (self.status == "kept") == (self.reason is None):
            raise OptionError("a layer has a reason if and only if it was kept")

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value, as the report holds it."""
        return json_object(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """The difference between the candidate and the reference in one output.

    The error of an element is its absolute difference divided by the output's scale: the largest
    absolute value of the reference for the same batch, but at least a thousandth of its largest
    value over the caller's own batches (or over random ones). Where the reference
    also ran in float64, the closer of the two results counts. For integer outputs the error is the
    share of elements that differ.

    Attributes:
        name: the output.
        max_relative_error: largest error of any element of any batch; infinite where NaN, infinity
            or the shape differ.
        mean_relative_error: largest mean error of any batch.
        rounding: how far rounding alone moves the reference: the larger of its error against
            float64 and the effect of one unit in the last place of every weight and input; None
            where neither was measured.
        worst_samples: name of the samples with the largest error, such as `batch 3` or `zeros`.
        allowed: the allowed error: the tolerance, or more where rounding is larger.
        exact_error: largest error of the candidate before its weights were rounded, with both
            models in float64; None where it could not be computed.
        failure: why the output failed, as a clause that begins with "by"; None if it passed.
    """

    name: str
    max_relative_error: float
    mean_relative_error: float
    rounding: float | None
    worst_samples: str
    allowed: float
    exact_error: float | None = None
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Return whether the output is within what is allowed."""
        return self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Whether two models compute the same outputs, and how closely.

    Attributes:
        outputs: one entry per compared output.
        samples: number of the caller's own samples that were run.
        tolerance: the allowed error. Unless the caller set it, an output that rounding alone moves
            further may differ by a few times as much; see `bn_ops.verification.decision`.
        passed: whether every output passed.
        max_relative_error: largest error of any output.
        reference: `float64`, or `native` where the reference ran only in its own element types.
        notes: sentences, such as why float64 was not available or what was not compared.
    """

    outputs: tuple[OutputParity, ...]
    samples: int
    tolerance: float
    passed: bool
    max_relative_error: float
    reference: str = "native"
    notes: tuple[str, ...] = ()

    @property
    def exact_error(self) -> float | None:
        """Return the largest float64 error before rounding, or None unless all outputs have one."""
        errors = [output.exact_error for output in self.outputs]
        known = [error for error in errors if error is not None]
        return max(known) if known and len(known) == len(errors) else None

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value, as the report holds it; an infinite error becomes null."""
        return json_object(self)


class Candidate(StrEnum):
    """Statistics that `Auto` compares, in the order of how far they move from the source.

    A share w of the target is the mixture of the two domains: μ = μs + w(μt - μs),
    σ² = (1 - w)σs² + wσt² + w(1 - w)(μt - μs)².
    """

    SOURCE = "source"
    """The source statistics in every layer: nothing is recalibrated."""

    SMALL = "small"
    """A share of 0.02 of the target in every layer."""

    EARLY = "early"
    """The target in the first third of the layers, a share of 0.1 behind them."""

    SHRINK = "shrink"
    """What the estimator `Shrink` gives; compared only where labels decide."""

    REPLACE = "replace"
    """The target in every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """One candidate's predictions compared with those of the source on the same samples.

    Attributes:
        candidate: the candidate.
        gain: rise of the criterion, in units of ln min(n, K) for n samples and K classes.
        gain_error: paired standard error of the gain; None for a single sample.
        entropy_rise: rise of the mean entropy of a prediction, in units of ln K.
        distinct_classes: number of classes that the predictions distinguish, between 1 and K.
    """

    candidate: Candidate
    gain: float
    gain_error: float | None
    entropy_rise: float
    distinct_classes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledScore:
    """One candidate on the labeled samples.

    Attributes:
        candidate: the candidate.
        score: accuracy, or the caller's metric; higher is better.
    """

    candidate: Candidate
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How `Auto` chose the statistics; computed by `bn_ops.auto`.

    Attributes:
        candidate: the candidate whose statistics the model has.
        scores: the candidates that were compared with the source.
        samples: number of samples of the probe that they were compared on.
        output: name of the output that the criterion read; None where no output holds classes.
        classes: number of classes K of that output; None where no output holds classes.
        distinct_classes: number of classes that the predictions distinguish: the largest of the
            candidates; None where no output holds classes.
        varied: whether that is enough for a moderate gain to count, or was declared.
        broad: whether that is enough for a large gain to count although predictions are less
            certain, or was declared.
        labeled: the candidates that were compared on labeled samples; the best of them was taken,
            whatever the criterion said. Empty without labels.
    """

    candidate: Candidate
    scores: tuple[CandidateScore, ...]
    samples: int
    output: str | None = None
    classes: int | None = None
    distinct_classes: float | None = None
    varied: bool = False
    broad: bool = False
    labeled: tuple[LabeledScore, ...] = ()


class VerdictCode(StrEnum):
    """What to do with the recalibrated model."""

    DEPLOY = "deploy"
    CHECK_WITH_LABELS = "check-with-labels"
    DO_NOT_DEPLOY = "do-not-deploy"


class ReasonCode(StrEnum):
    """Why a verdict was given. `docs/auto.md` explains each."""

    CLEAR_GAIN = "clear-gain"
    CORRELATED_STREAM = "correlated-stream"
    FEW_CLASSES_IN_STREAM = "few-classes-in-stream"
    GAIN_WITHIN_ERROR = "gain-within-error"
    INPUT_MISMATCH = "input-mismatch"
    LABELS_BETTER = "labels-better"
    LABELS_NOT_WORSE = "labels-not-worse"
    LABELS_WORSE = "labels-worse"
    LESS_CERTAIN_PREDICTIONS = "less-certain-predictions"
    NO_GAIN = "no-gain"
    OUTPUTS_NOT_CLASSES = "outputs-not-classes"
    SOURCE_KEPT = "source-kept"
    SOURCE_STATISTICS_UNSET = "source-statistics-unset"
    TOO_FEW_LABELS = "too-few-labels"
    TOO_FEW_SAMPLES = "too-few-samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReason:
    """One reason for a verdict.

    Attributes:
        code: stable code.
        text: one sentence with the numbers.
    """

    code: ReasonCode
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the recalibrated model should be deployed.

    Attributes:
        code: stable code.
        sentence: the verdict as one sentence.
        reasons: the reasons, the most important first; at least one.
        next_steps: what to do next, as imperative sentences.
    """

    code: VerdictCode
    sentence: str
    reasons: tuple[VerdictReason, ...]
    next_steps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value, as the report holds it."""
        return json_object(self)


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

    def to_json(self) -> dict[str, Json]:
        """Return the versioned JSON form; NaN and infinities become null."""
        return {
            "report": REPORT_VERSION,
            **{f.name: jsonable(getattr(self, f.name)) for f in fields(self)},
            "frozen": {**json_object(self.frozen), "unchanged": self.frozen.unchanged},
        }
