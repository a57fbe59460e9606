"""Predictions before and after: without labels, and on labeled samples."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClassChange", "EvaluationReport", "MetricReport", "PredictionShift"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """Samples whose most likely class changed in the same way.

    Attributes:
        before, after: the most likely class before and after, counted from 0.
        samples: number of these samples.
    """

    before: int
    after: int
    samples: int


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
        changes: the most frequent changes of the most likely class, most frequent first.
        confidence_before, confidence_after: mean probability of the most likely class; None in
            reports of older versions.
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
    changes: tuple[ClassChange, ...] = ()
    confidence_before: float | None = None
    confidence_after: float | None = None


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
