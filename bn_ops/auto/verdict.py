"""The verdict: a judgment and its evidence, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bn_ops.auto.criterion import Gain
from bn_ops.auto.decision import (
    MIN_SAMPLES,
    MIN_SAMPLES_TO_DEPLOY,
    MIN_SAMPLES_TO_REFUSE,
    Judgment,
    can_look_varied,
)
from bn_ops.diagnostics.probe import PROBE_SAMPLES
from bn_ops.diagnostics.report import (
    Correlation,
    ReasonCode,
    Verdict,
    VerdictCode,
    VerdictReason,
)
from bn_ops.input_check.result import InputCheck

__all__ = ["Evidence", "LabeledChange", "judge_by_labels", "verdict"]

# With fewer labeled samples, keeping the source does not count as evidence against the
# candidates.
_MIN_LABELED_SAMPLES = 30

_Code, _Why = VerdictCode, ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledChange:
    """The result against the source on labeled samples.

    Attributes:
        samples: number of labeled samples.
        before, after: accuracy or the caller's metric; higher is better.
        low, high: 95 % confidence interval of after - before; None where it is not known.
        max_drop: the drop that the caller tolerates.
    """

    samples: int
    before: float
    after: float
    low: float | None
    high: float | None
    max_drop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the reasons of a verdict quote.

    Attributes:
        samples: number of samples of the stream.
        source_kept: whether the model still has the source statistics.
        gain: the gain of the result, or of the best candidate where the source was kept; None
            where predictions were not compared.
        distinct_classes: number of classes that the predictions distinguish; None where predictions
            were not compared.
        classes: number of classes K; None where no output holds classes.
        probe_samples: number of samples that predictions were compared on.
        per_position: whether the classes are those of a score map.
        correlation: the correlation of the stream.
        input_check: the input check.
        labels: the result on labeled samples; None where none were given.
    """

    samples: int
    source_kept: bool
    gain: Gain | None = None
    distinct_classes: float | None = None
    classes: int | None = None
    probe_samples: int = 0
    per_position: bool = False
    correlation: Correlation | None = None
    input_check: InputCheck | None = None
    labels: LabeledChange | None = None


def judge_by_labels(found: LabeledChange, *, source_kept: bool) -> Judgment:
    """Judge a result by labeled samples alone."""
    if source_kept:
        if found.samples < _MIN_LABELED_SAMPLES:
            return Judgment(
                code=_Code.CHECK_WITH_LABELS, reasons=(_Why.TOO_FEW_LABELS, _Why.SOURCE_KEPT)
            )
        return Judgment(code=_Code.DO_NOT_DEPLOY, reasons=(_Why.NO_GAIN, _Why.SOURCE_KEPT))
    if found.low is None or found.high is None:
        return Judgment(code=_Code.CHECK_WITH_LABELS, reasons=(_Why.TOO_FEW_LABELS,))
    if found.low >= -found.max_drop:
        better = _Why.LABELS_BETTER if found.low > 0 else _Why.LABELS_NOT_WORSE
        return Judgment(code=_Code.DEPLOY, reasons=(better,))
    if found.high < 0:
        return Judgment(code=_Code.DO_NOT_DEPLOY, reasons=(_Why.LABELS_WORSE,))
    return Judgment(code=_Code.CHECK_WITH_LABELS, reasons=(_Why.TOO_FEW_LABELS,))


def verdict(judgment: Judgment, evidence: Evidence) -> Verdict:
    """Put a judgment into words, lowered where the input or the stream speaks against it."""
    judgment = _lowered(judgment, evidence)
    reasons = tuple(
        VerdictReason(code=code, text=_reason(code, evidence)) for code in judgment.reasons
    )
    mismatched = judgment.reasons[0] is _Why.INPUT_MISMATCH
    # Wrong input is corrected first: what other reasons suggest applies to the next run.
    counted = judgment.reasons[:1] if mismatched else judgment.reasons
    labels_needed = _needs_labels(judgment, evidence)
    steps = [s for code in counted for s in _steps(code, evidence, labels_needed=labels_needed)]
    if judgment.code is _Code.CHECK_WITH_LABELS and evidence.labels is None:
        steps.append(
            "Label some samples and pass them (evaluate=, --labels): labels decide where "
            "predictions cannot."
        )
    return Verdict(
        code=judgment.code,
        sentence=_sentence(judgment, evidence),
        reasons=reasons,
        next_steps=tuple(dict.fromkeys(steps)),
    )


def _lowered(judgment: Judgment, evidence: Evidence) -> Judgment:
    """Lower a judgment where something speaks against it that it did not take into account."""
    without_labels = evidence.labels is None
    if evidence.per_position and without_labels and judgment.code is _Code.DEPLOY:
        judgment = _capped(judgment, _Why.OUTPUTS_NOT_CLASSES)
    found = evidence.correlation
    if found is not None and found.suspicious and without_labels:
        if found.effective_samples < MIN_SAMPLES_TO_DEPLOY:
            judgment = _capped(judgment, _Why.CORRELATED_STREAM)
        else:
            judgment = replace(judgment, reasons=(*judgment.reasons, _Why.CORRELATED_STREAM))
    if evidence.input_check is not None and not evidence.input_check.plausible:
        judgment = _mismatched(judgment)
    return judgment


def _mismatched(judgment: Judgment) -> Judgment:
    """Judge a result from input that the model was not trained on, and which the caller allowed.

    Predictions and labels were compared on the same wrong input, where the source is at its worst.
    Only labels that prove the result better leave it open whether it should be deployed: either the
    model is meant to get such input, or its stored statistics are what is wrong.
    """
    proven = _Why.LABELS_BETTER in judgment.reasons
    return Judgment(
        code=_Code.CHECK_WITH_LABELS if proven else _Code.DO_NOT_DEPLOY,
        reasons=(_Why.INPUT_MISMATCH, *judgment.reasons),
    )


def _capped(judgment: Judgment, reason: ReasonCode) -> Judgment:
    """Put a reason first; the code is then at most `check-with-labels`."""
    code = judgment.code
    return Judgment(
        code=_Code.CHECK_WITH_LABELS if code is _Code.DEPLOY else code,
        reasons=(reason, *judgment.reasons),
    )


_WHY_CHECK = {
    _Why.CORRELATED_STREAM: "the samples of the stream are correlated",
    _Why.FEW_CLASSES_IN_STREAM: "the predictions distinguish too few classes to judge by them",
    _Why.GAIN_WITHIN_ERROR: "the predictions did not clearly improve",
    _Why.INPUT_MISMATCH: "the input does not look like what the model was trained on",
    _Why.LESS_CERTAIN_PREDICTIONS: "the predictions became less certain",
    _Why.OUTPUTS_NOT_CLASSES: "the outputs cannot be judged without labels",
    _Why.SOURCE_STATISTICS_UNSET: "the source had no statistics to compare with",
    _Why.TOO_FEW_LABELS: "the labeled samples leave it open which model is better",
}

_WHY_DEPLOY = {
    _Why.CLEAR_GAIN: "its predictions distinguish classes clearly better than before",
    _Why.LABELS_BETTER: "it is better on the labeled samples",
    _Why.LABELS_NOT_WORSE: "on the labeled samples it loses no more than is allowed",
    _Why.SOURCE_STATISTICS_UNSET: "the source statistics were never set",
}


def _sentence(judgment: Judgment, evidence: Evidence) -> str:
    first = judgment.reasons[0]
    if judgment.code is _Code.DEPLOY:
        return f"Deploy the recalibrated model: {_WHY_DEPLOY[first]}."
    if judgment.code is _Code.DO_NOT_DEPLOY:
        return _refusal(judgment, evidence)
    if evidence.source_kept:
        return (
            f"The source statistics are kept: {_why_check(judgment, evidence)}; only labels can "
            "show whether recalibration would help."
        )
    return (
        "Check the recalibrated model on labeled samples before deploying it: "
        f"{_why_check(judgment, evidence)}."
    )


def _why_check(judgment: Judgment, evidence: Evidence) -> str:
    first = judgment.reasons[0]
    if first is not _Why.TOO_FEW_SAMPLES:
        return _WHY_CHECK[first]
    if _needs_labels(judgment, evidence):
        return f"{evidence.samples} samples are too few to judge by"
    unset = _is_unset(judgment)
    if evidence.samples < MIN_SAMPLES_TO_REFUSE and not unset:
        needed = str(MIN_SAMPLES_TO_REFUSE)
    else:
        needed = f"{MIN_SAMPLES_TO_DEPLOY}{'' if unset else ' for a gain of this size'}"
    return f"{evidence.samples} samples are too few (deploy needs at least {needed})"


def _is_unset(judgment: Judgment) -> bool:
    return _Why.SOURCE_STATISTICS_UNSET in judgment.reasons


def _needs_labels(judgment: Judgment, evidence: Evidence) -> bool:
    """Return whether no number of samples gives `deploy` without labels or a declaration."""
    if _is_unset(judgment):
        return False
    if evidence.classes is None or evidence.per_position:
        return True
    probe = max(PROBE_SAMPLES, evidence.probe_samples)
    return not can_look_varied(evidence.classes, probe=probe)


def _refusal(judgment: Judgment, evidence: Evidence) -> str:
    if judgment.reasons[0] is _Why.INPUT_MISMATCH:
        what = "Keep the source model" if evidence.source_kept else "Do not deploy this model"
        return f"{what}, and correct the preprocessing: {_WHY_CHECK[_Why.INPUT_MISMATCH]}."
    labeled = " on the labeled samples" if evidence.labels is not None else " on this stream"
    if evidence.source_kept:
        return f"Keep the source model: recalibration does not improve it{labeled}."
    if ReasonCode.LABELS_WORSE in judgment.reasons:
        return "Do not deploy the recalibrated model: it is worse on the labeled samples."
    return (
        "Do not deploy the recalibrated model: its predictions distinguish classes worse than "
        "those of the source."
    )


def _reason(code: ReasonCode, evidence: Evidence) -> str:
    if evidence.labels is not None and code in _LABEL_REASONS:
        return _label_reason(code, evidence.labels)
    return _REASONS[code](evidence)


_LABEL_REASONS = frozenset(
    {
        _Why.LABELS_BETTER,
        _Why.LABELS_NOT_WORSE,
        _Why.LABELS_WORSE,
        _Why.TOO_FEW_LABELS,
        _Why.NO_GAIN,
    }
)


def _label_reason(code: ReasonCode, found: LabeledChange) -> str:
    if code is _Why.NO_GAIN:
        return (
            f"No candidate scores better than the source, {found.before:.4g}, on {found.samples} "
            "labeled samples."
        )
    interval = (
        "its confidence interval is not known"
        if found.low is None or found.high is None
        else f"95 % confidence interval of the change {found.low:+.4f} to {found.high:+.4f}"
    )
    allowed = f", allowed drop {found.max_drop:g}" if found.max_drop else ""
    return (
        f"On {found.samples} labeled samples the score went from {found.before:.4g} to "
        f"{found.after:.4g}; {interval}{allowed}."
    )


def _gain(evidence: Evidence) -> str:
    found = evidence.gain
    if found is None:
        return "Predictions were not compared"
    best = " of the best candidate" if evidence.source_kept else ""
    return (
        f"The gain{best} is {found.value:+.3f} ± {found.error:.3f} on {evidence.probe_samples} "
        f"samples, and the entropy of the predictions changed by {found.entropy_rise:+.3f} of its "
        "range"
    )


def _distinct(evidence: Evidence) -> str:
    return (
        f"the predictions distinguish {evidence.distinct_classes or 1:.1f} of {evidence.classes} "
        "classes"
    )


def _compared(evidence: Evidence) -> str:
    return f"{_gain(evidence)}; {_distinct(evidence)}."


def _few_classes(evidence: Evidence) -> str:
    return (
        f"{_capital(_distinct(evidence))}. Either the stream holds few classes, or the domain "
        "shift leaves the network unable to distinguish them."
    )


def _few_samples(evidence: Evidence) -> str:
    return (
        f"The stream holds {evidence.samples} samples. Fewer than {MIN_SAMPLES} never change the "
        f"statistics, and fewer than {MIN_SAMPLES_TO_REFUSE} never give a final verdict."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _outputs(evidence: Evidence) -> str:
    if evidence.per_position:
        return (
            f"The output is a score map with {evidence.classes} channels; the rule was measured "
            "only on networks with one prediction per sample."
        )
    return (
        "No output is a table (samples, classes) of finite scores with at least two classes, so "
        "predictions cannot be compared without labels."
    )


def _correlated(evidence: Evidence) -> str:
    found = evidence.correlation
    worth = evidence.samples if found is None else found.effective_samples
    return (
        f"Neighboring samples are correlated: the {evidence.samples} samples are worth about "
        f"{worth} independent ones."
    )


def _mismatch(evidence: Evidence) -> str:
    findings = () if evidence.input_check is None else evidence.input_check.findings
    return "; ".join(finding.message for finding in findings) + "."


_REASONS: Mapping[ReasonCode, Callable[[Evidence], str]] = {
    _Why.CLEAR_GAIN: _compared,
    _Why.NO_GAIN: _compared,
    _Why.GAIN_WITHIN_ERROR: lambda evidence: f"{_gain(evidence)}; that is not a clear gain.",
    _Why.LESS_CERTAIN_PREDICTIONS: lambda evidence: f"{_gain(evidence)}.",
    _Why.FEW_CLASSES_IN_STREAM: _few_classes,
    _Why.TOO_FEW_SAMPLES: _few_samples,
    _Why.OUTPUTS_NOT_CLASSES: _outputs,
    _Why.SOURCE_KEPT: lambda _: "The model has the source statistics; nothing was recalibrated.",
    _Why.SOURCE_STATISTICS_UNSET: lambda _: (
        "The source statistics of every layer are mean 0 and variance 1, as a framework "
        "initializes them."
    ),
    _Why.CORRELATED_STREAM: _correlated,
    _Why.INPUT_MISMATCH: _mismatch,
}


def _steps(code: ReasonCode, evidence: Evidence, *, labels_needed: bool) -> tuple[str, ...]:
    if code is _Why.INPUT_MISMATCH and evidence.input_check is not None:
        return (
            *(f"{_capital(finding.suggestion)}." for finding in evidence.input_check.findings),
            "Recalibrate again with the corrected preprocessing.",
            *(() if evidence.labels is not None else (_IF_INPUT_IS_RIGHT,)),
        )
    if code is _Why.NO_GAIN and not evidence.source_kept:
        return ("Keep the source model, or use the estimator Auto, which compares candidates.",)
    if labels_needed and code in {_Why.FEW_CLASSES_IN_STREAM, _Why.TOO_FEW_SAMPLES}:
        return (_only_labels(evidence),)
    if code is _Why.FEW_CLASSES_IN_STREAM:
        return (*_STEPS[code], *_declaration(evidence))
    return _STEPS.get(code, ())


def _declaration(evidence: Evidence) -> tuple[str, ...]:
    """Return the advice to declare the stream varied, where that would count."""
    if evidence.samples < (evidence.classes or 0):
        return ()
    return (_DECLARE,)


def _only_labels(evidence: Evidence) -> str:
    if evidence.classes is None:
        return "Without class scores, the verdict is deploy only with labels."
    if evidence.per_position:
        return "For score maps, the verdict is deploy only with labels."
    samples = max(evidence.classes, MIN_SAMPLES_TO_REFUSE)
    return (
        f"With {evidence.classes:,} classes, the verdict is deploy only with labels, or if the "
        f"stream holds at least {samples:,} samples of all classes and is declared varied with "
        "Auto(varied=True) (auto:varied)."
    )


_DECLARE = (
    "If the stream holds all classes as they occur in use, declare it with Auto(varied=True) "
    "(auto:varied)."
)


_IF_INPUT_IS_RIGHT = (
    "If the preprocessing is that of the training and the stored statistics are wrong, show it "
    "with labeled samples (evaluate=, --labels)."
)

_STEPS = {
    _Why.CORRELATED_STREAM: ("Send samples from more places or times.",),
    _Why.FEW_CLASSES_IN_STREAM: ("Send samples of all classes that occur in use.",),
    _Why.LABELS_WORSE: ("Keep the source model.",),
    _Why.NO_GAIN: ("Keep the source model.",),
    _Why.OUTPUTS_NOT_CLASSES: (
        (
            "Name an estimator, such as Shrink() or Replace(), and compare the result with the "
            "source by your own metric (metric=)."
        ),
    ),
    _Why.TOO_FEW_LABELS: ("Label more samples.",),
    _Why.TOO_FEW_SAMPLES: (
        (
            f"Send at least {MIN_SAMPLES_TO_DEPLOY} samples: with fewer than "
            f"{MIN_SAMPLES_TO_REFUSE} the verdict is never deploy, and with fewer than "
            f"{MIN_SAMPLES_TO_DEPLOY} only for a large gain."
        ),
    ),
}
