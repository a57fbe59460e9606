"""The verdict on a finished run, from its report and the compared predictions."""

from __future__ import annotations

from bn_ops.auto.criterion import Gain, gain, score
from bn_ops.auto.decision import Judgment, judge, verdict_on_choice
from bn_ops.auto.selection import Selection
from bn_ops.auto.verdict import Evidence, LabeledChange, judge_by_labels, verdict
from bn_ops.diagnostics.class_outputs import ClassOutput
from bn_ops.diagnostics.report import Candidate, ReasonCode, Report, Verdict, VerdictCode

__all__ = ["verdict_on_choice_of_run", "verdict_on_labels", "verdict_on_result"]


def verdict_on_choice_of_run(report: Report, selection: Selection, *, max_drop: float) -> Verdict:
    """Return the verdict on the choice of `Auto`.

    Args:
        report: the report, complete but for the verdict.
        selection: the choice.
        max_drop: the drop on labeled samples that the caller tolerates.
    """
    decision = selection.decision
    kept = selection.candidate is Candidate.SOURCE
    best = max(decision.gains.values(), key=lambda found: found.value, default=None)
    return _verdict(
        report,
        verdict_on_choice(decision),
        kept=kept,
        found=decision.gains.get(selection.candidate, best),
        output=selection.output,
        distinct_classes=None if decision.variety is None else decision.variety.distinct_classes,
        max_drop=max_drop,
    )


def verdict_on_result(
    report: Report, compared: tuple[ClassOutput, ClassOutput] | None, *, max_drop: float
) -> Verdict:
    """Return the verdict on the result of the caller's own estimator.

    Args:
        report: the report, complete but for the verdict.
        compared: an output with classes, before and after; None without one.
        max_drop: the drop on labeled samples that the caller tolerates.
    """
    samples = report.stream.samples
    if compared is None:
        unknown = Judgment(
            code=VerdictCode.CHECK_WITH_LABELS, reasons=(ReasonCode.OUTPUTS_NOT_CLASSES,)
        )
        return _verdict(report, unknown, kept=False, max_drop=max_drop)
    before, after = (score(output.probabilities) for output in compared)
    return _verdict(
        report,
        judge(before, after, samples=samples),
        kept=False,
        found=gain(before, after),
        output=compared[1],
        distinct_classes=after.distinct_classes,
        max_drop=max_drop,
    )


def verdict_on_labels(report: Report, *, max_drop: float) -> Verdict:
    """Return the verdict that labeled samples give after a run without labels.

    Args:
        report: the report of the run, with its `evaluation` or `metric`.
        max_drop: the drop on labeled samples that the caller tolerates.
    """
    kept = report.choice is not None and report.choice.candidate is Candidate.SOURCE
    unknown = Judgment(code=VerdictCode.CHECK_WITH_LABELS, reasons=(ReasonCode.TOO_FEW_LABELS,))
    return _verdict(report, unknown, kept=kept, max_drop=max_drop)


def _verdict(
    report: Report,
    judgment: Judgment,
    *,
    kept: bool,
    max_drop: float,
    found: Gain | None = None,
    output: ClassOutput | None = None,
    distinct_classes: float | None = None,
) -> Verdict:
    labels = _labeled_change(report, max_drop)
    if labels is not None:
        judgment = judge_by_labels(labels, source_kept=kept)
    return verdict(
        judgment,
        Evidence(
            samples=report.stream.samples,
            source_kept=kept,
            gain=found,
            distinct_classes=distinct_classes,
            classes=None if output is None else output.probabilities.shape[2],
            probe_samples=0 if output is None else output.probabilities.shape[0],
            per_position=output is not None and output.per_position,
            correlation=report.stream.correlation,
            input_check=report.input_check,
            labels=labels,
        ),
    )


def _labeled_change(report: Report, max_drop: float) -> LabeledChange | None:
    if report.metric is not None:
        return LabeledChange(
            samples=report.metric.samples,
            before=report.metric.before,
            after=report.metric.after,
            low=report.metric.change_low,
            high=report.metric.change_high,
            max_drop=max_drop,
        )
    found = report.evaluation
    if found is None:
        return None
    return LabeledChange(
        samples=found.samples,
        before=1 - found.error_before,
        after=1 - found.error_after,
        low=found.change_low,
        high=found.change_high,
        max_drop=max_drop,
    )
