"""The report of a run: a tree of frozen values with one versioned JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from bn_ops.core.json_form import Json, jsonable

__all__ = [
    "REPORT_VERSION",
    "ActivationReport",
    "ActivationSummary",
    "CorrelationReport",
    "DriftSummary",
    "EvaluationReport",
    "FoldReport",
    "FrozenReport",
    "LayerReport",
    "OutputReport",
    "ParityReport",
    "PredictionReport",
    "Report",
    "StreamReport",
    "report_json",
]

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationReport:
    """What the order of the stream showed; see `bn_ops.diagnostics.autocorrelation`.

    Attributes:
        blocks, block_samples: how many contiguous blocks were compared, and their length.
        error_ratio: standard error over blocks divided by that over samples; about 1 for
            independent samples.
        effective_samples: how many independent samples the stream is worth.
        suspicious: whether it led to a warning.
    """

    blocks: int
    block_samples: int
    error_ratio: float
    effective_samples: int
    suspicious: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What was read.

    Attributes:
        batches, samples: how many.
        correlation: what the order showed; None where it was not watched or the stream is short.
    """

    batches: int
    samples: int
    correlation: CorrelationReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionReport:
    """A classification head before and after, on the calibration samples.

    See `bn_ops.diagnostics.predictions`.

    Attributes:
        output: the output's name.
        samples, classes: how many samples were predicted, and among how many classes.
        agreement: share of them whose class did not change.
        entropy_change: mean entropy of the class probabilities, after minus before, in nats.
        variety_before, variety_after: effective number of predicted classes.
        less_certain, collapsed: whether the entropy, or the variety, led to a warning.
    """

    output: str
    samples: int
    agreement: float
    entropy_change: float
    variety_before: float
    variety_after: float
    collapsed: bool
    classes: int | None = None
    less_certain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """The error on labelled samples before and after; see `bn_ops.diagnostics.labelled_error`.

    Attributes:
        output: the output that was judged: the class with the largest score along axis 1.
        samples, labels: how many samples, and labels on them (more for one label per position).
        error_before, error_after: share of the labels that were answered wrongly.
        broken, mended: answers that became wrong, and right.
        chance: probability of so uneven a balance of the two if neither were likelier (exact sign
            test); None for labels per position, which are not independent.
    """

    output: str
    samples: int
    labels: int
    error_before: float
    error_after: float
    broken: int
    mended: int
    chance: float | None


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
class ActivationSummary:
    """A layer's input, over its channels; see `bn_ops.diagnostics.activations`.

    Attributes:
        mean: average over channels of the input's mean.
        spread: root mean square over channels of its standard deviation.
        normalised_shift: median over channels of |mean - stored mean| / √(stored var + ε); 0 where
            the layer's statistics fit.
        normalised_spread: median over channels of √(var / (stored var + ε)); 1 where they fit.
    """

    mean: float
    spread: float
    normalised_shift: float
    normalised_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationReport:
    """A layer's input on the first samples of the stream, in two runs of the whole network.

    Attributes:
        samples: how many samples reached the layer.
        before: with the source statistics in every layer.
        after: with the new ones.
    """

    samples: int
    before: ActivationSummary
    after: ActivationSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One BatchNorm layer.

    Attributes:
        name: the layer.
        status: `recalibrated`, `left_out` (by pattern), `unreached` (no batch came by) or
            `out_of_reach`.
        reason: why it was not recalibrated, for a person.
        channels: C.
        samples, count: samples and values per channel measured.
        drift: how far the statistics moved.
        mean_error, scale_error: 95 % error of mean and scale in units of σ; see
            `bn_ops.diagnostics.standard_errors`.
        samples_needed: estimated samples for an error of the run's target.
        dead_channels: channels without variance in both domains, which keep their variance.
        silenced_channels: channels whose variance is gone in the target only; they keep the
            source's.
        amplification: largest gain ratio of a channel, new over old.
        residual_mean, residual_var: what a layer used several times still is away from its own
            fixed point; None elsewhere.
        activations: the layer's input before and after; None where the two were not compared.
    """

    name: str
    status: str
    reason: str | None = None
    channels: int | None = None
    samples: int | None = None
    count: int | None = None
    drift: DriftSummary | None = None
    mean_error: float | None = None
    scale_error: float | None = None
    samples_needed: int | None = None
    dead_channels: tuple[int, ...] = ()
    silenced_channels: tuple[int, ...] = ()
    amplification: float | None = None
    residual_mean: float | None = None
    residual_var: float | None = None
    activations: ActivationReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenReport:
    """Everything of the model that must not change.

    Attributes:
        tensors: name → sha256 before the run.
        sha256_before, sha256_after: one digest over all of them.
    """

    tensors: Mapping[str, str]
    sha256_before: str
    sha256_after: str

    @property
    def unchanged(self) -> bool:
        """Whether nothing changed."""
        return self.sha256_before == self.sha256_after


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What became of one layer when the model was folded."""

    name: str
    status: str
    rule: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReport:
    """How far one output of the folded model is from the reference, relative to its scale.

    Attributes:
        name: the output.
        max_relative_error, mean_relative_error: of any batch.
        rounding: how far rounding alone moves the unfolded model, where that was measured.
        allowed: the largest error that was allowed: the tolerance, or more where rounding is more.
        exact_error: the error in float64 before the folded weights were rounded, where known.
    """

    name: str
    max_relative_error: float
    mean_relative_error: float
    rounding: float | None = None
    allowed: float | None = None
    exact_error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The proof that the folded model computes what the unfolded one does."""

    outputs: tuple[OutputReport, ...]
    samples: int
    tolerance: float
    max_relative_error: float
    passed: bool
    reference: str = "native"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run.

    Attributes:
        bnrecal: version of this package.
        engine: `onnx` or `torch`.
        method: `exact` or `batch`.
        estimator: JSON form of the estimator.
        layers_selected: the patterns given, or None for all.
        source_sha256: digest of the model that came in (None for a torch module).
        stream: what was read.
        layers: every layer of the model, in order of execution.
        frozen: proof that nothing else changed.
        timings: phase → seconds.
        warnings: sentences for a person.
        fold, parity: what `adapt` adds.
        predictions: how a classification head's answers changed; None where it was not looked at.
        evaluation: the error on labelled samples; None where none were given.

    Fields are only ever added within a version, each with a default, so that a reader of version 1
    reads every report of version 1.
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
    fold: tuple[FoldReport, ...] | None = None
    parity: ParityReport | None = None
    predictions: PredictionReport | None = None
    evaluation: EvaluationReport | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the versioned JSON form."""
        return report_json(self)


def report_json(report: Report) -> dict[str, Json]:
    """Turn a report into plain JSON values; numbers that JSON lacks become None."""
    frozen = jsonable(report.frozen)
    assert isinstance(frozen, dict)
    body = {f.name: jsonable(getattr(report, f.name)) for f in fields(report)}
    return {
        "report": REPORT_VERSION,
        **body,
        "frozen": {**frozen, "unchanged": report.frozen.unchanged},
    }
