"""The words of verdicts, and what lowers them."""

from __future__ import annotations

import pytest

from bn_ops.auto.criterion import Gain
from bn_ops.auto.decision import Judgment
from bn_ops.auto.verdict import Evidence, LabeledChange, judge_by_labels, verdict
from bn_ops.diagnostics.report import Correlation, ReasonCode, Verdict, VerdictCode
from bn_ops.input_check.result import InputCheck, InputFinding

DEPLOY = Judgment(code=VerdictCode.DEPLOY, reasons=(ReasonCode.CLEAR_GAIN,))


def evidence(**changes: object) -> Evidence:
    given: dict[str, object] = {
        "samples": 100,
        "source_kept": False,
        "gain": Gain(value=0.123, error=0.045, entropy_rise=-0.067),
        "distinct_classes": 6.54,
        "classes": 12,
        "probe_samples": 64,
    }
    return Evidence(**(given | changes))  # type: ignore[arg-type]  # a table of values


def correlated(effective: int) -> Correlation:
    return Correlation(
        blocks=10,
        block_samples=10,
        design_effect=4.0,
        error_ratio=2.0,
        effective_samples=effective,
        suspicious=True,
    )


MISMATCH = InputCheck(
    samples=32,
    layers=("bn",),
    channels=8,
    distance=220.0,
    spread=90.0,
    threshold=4.5,
    share_beyond_3=1.0,
    share_beyond_10=1.0,
    findings=(
        InputFinding(cause="scale", message="the values are 0…255", suggestion="divide by 255"),
    ),
)


def labels(
    before: float, after: float, low: float | None, high: float | None, **more: float
) -> LabeledChange:
    given = {"samples": 100, "max_drop": 0.0} | more
    return LabeledChange(before=before, after=after, low=low, high=high, **given)  # type: ignore[arg-type]  # an int among floats


def test_reason_quotes_the_numbers() -> None:
    found = verdict(DEPLOY, evidence())
    assert found.code is VerdictCode.DEPLOY
    (reason,) = found.reasons
    for number in ("+0.123 ± 0.045", "64 samples", "-0.067", "6.5 of 12 classes"):
        assert number in reason.text


@pytest.mark.parametrize(
    ("effective", "code", "reasons"),
    [
        (31, "check-with-labels", ["correlated-stream", "clear-gain"]),
        (32, "deploy", ["clear-gain", "correlated-stream"]),
    ],
)
def test_correlated_stream(effective: int, code: str, reasons: list[str]) -> None:
    found = verdict(DEPLOY, evidence(correlation=correlated(effective)))
    assert found.code == code
    assert [reason.code for reason in found.reasons] == reasons
    assert f"about {effective} independent" in " ".join(reason.text for reason in found.reasons)


def test_score_map_is_not_deployed() -> None:
    found = verdict(DEPLOY, evidence(per_position=True))
    assert found.code is VerdictCode.CHECK_WITH_LABELS
    assert found.reasons[0].code is ReasonCode.OUTPUTS_NOT_CLASSES


_LABELED = {
    ReasonCode.LABELS_BETTER: VerdictCode.DEPLOY,
    ReasonCode.LABELS_NOT_WORSE: VerdictCode.DEPLOY,
    ReasonCode.LABELS_WORSE: VerdictCode.DO_NOT_DEPLOY,
    ReasonCode.TOO_FEW_LABELS: VerdictCode.CHECK_WITH_LABELS,
}
_UNLABELED = {
    ReasonCode.CLEAR_GAIN: VerdictCode.DEPLOY,
    ReasonCode.SOURCE_STATISTICS_UNSET: VerdictCode.DEPLOY,
    ReasonCode.NO_GAIN: VerdictCode.DO_NOT_DEPLOY,
    ReasonCode.CORRELATED_STREAM: VerdictCode.CHECK_WITH_LABELS,
    ReasonCode.FEW_CLASSES_IN_STREAM: VerdictCode.CHECK_WITH_LABELS,
    ReasonCode.GAIN_WITHIN_ERROR: VerdictCode.CHECK_WITH_LABELS,
    ReasonCode.INPUT_MISMATCH: VerdictCode.DO_NOT_DEPLOY,
    ReasonCode.LESS_CERTAIN_PREDICTIONS: VerdictCode.CHECK_WITH_LABELS,
    ReasonCode.OUTPUTS_NOT_CLASSES: VerdictCode.CHECK_WITH_LABELS,
    ReasonCode.TOO_FEW_SAMPLES: VerdictCode.CHECK_WITH_LABELS,
}


@pytest.mark.parametrize(
    ("reason", "code", "labeled"),
    [
        *((reason, code, True) for reason, code in _LABELED.items()),
        *((reason, code, False) for reason, code in _UNLABELED.items()),
    ],
)
def test_every_first_reason_has_words(
    reason: ReasonCode, code: VerdictCode, *, labeled: bool
) -> None:
    given = labels(0.5, 0.6, 0.01, 0.2) if labeled else None
    check = MISMATCH if reason is ReasonCode.INPUT_MISMATCH else None
    reasons = () if check is not None else (reason,)
    found = verdict(
        Judgment(code=code, reasons=(*reasons, ReasonCode.TOO_FEW_SAMPLES)),
        evidence(labels=given, input_check=check),
    )
    assert (found.code, found.reasons[0].code) == (code, reason)
    assert found.sentence.endswith(".")
    assert found.reasons[0].text.endswith(".")
    if code is not VerdictCode.DEPLOY:
        assert found.next_steps


def test_the_reason_of_a_kept_source_has_words() -> None:
    judgment = Judgment(
        code=VerdictCode.DO_NOT_DEPLOY, reasons=(ReasonCode.NO_GAIN, ReasonCode.SOURCE_KEPT)
    )
    found = verdict(judgment, evidence(source_kept=True))
    assert found.sentence.startswith("Keep the source model")
    assert "nothing was recalibrated" in found.reasons[1].text
    assert {*_LABELED, *_UNLABELED, ReasonCode.SOURCE_KEPT} == set(ReasonCode)


@pytest.mark.parametrize(
    ("found", "kept", "code", "reason"),
    [
        (labels(0.5, 0.6, 0.01, 0.2), False, "deploy", "labels-better"),
        (labels(0.5, 0.6, 0.0, 0.2), False, "deploy", "labels-not-worse"),
        (labels(0.5, 0.6, -0.01, 0.2), False, "check-with-labels", "too-few-labels"),
        (labels(0.5, 0.6, -0.01, 0.2, max_drop=0.02), False, "deploy", "labels-not-worse"),
        (labels(0.6, 0.5, -0.2, -0.01), False, "do-not-deploy", "labels-worse"),
        (labels(0.6, 0.5, -0.2, -0.01, max_drop=0.2), False, "deploy", "labels-not-worse"),
        (labels(0.6, 0.7, None, None), False, "check-with-labels", "too-few-labels"),
        (labels(0.6, 0.6, 0.0, 0.0), True, "do-not-deploy", "no-gain"),
        (labels(0.6, 0.6, 0.0, 0.0, samples=29), True, "check-with-labels", "too-few-labels"),
    ],
)
def test_labels_decide(found: LabeledChange, kept: bool, code: str, reason: str) -> None:  # noqa: FBT001 - a table
    judgment = judge_by_labels(found, source_kept=kept)
    assert (judgment.code, judgment.reasons[0]) == (code, reason)
    words = verdict(judgment, evidence(labels=found, source_kept=kept))
    assert f"{found.samples} labeled samples" in words.reasons[0].text


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("code", list(VerdictCode))
def test_allowed_mismatch_is_not_deployed(code: VerdictCode, *, kept: bool) -> None:
    judgment = Judgment(code=code, reasons=(ReasonCode.FEW_CLASSES_IN_STREAM,))
    found = verdict(judgment, evidence(input_check=MISMATCH, source_kept=kept))
    assert found.code is VerdictCode.DO_NOT_DEPLOY
    assert [reason.code for reason in found.reasons] == ["input-mismatch", "few-classes-in-stream"]
    assert found.sentence.startswith("Keep the source model" if kept else "Do not deploy")
    assert "correct the preprocessing" in found.sentence
    assert found.next_steps[:2] == (
        "Divide by 255.",
        "Recalibrate again with the corrected preprocessing.",
    )
    # Not: send other samples, or declare the stream varied.
    assert len(found.next_steps) == 3
    assert "labeled samples" in found.next_steps[2]


@pytest.mark.parametrize(
    ("change", "kept", "code"),
    [
        (labels(0.5, 0.7, 0.1, 0.3), False, "check-with-labels"),
        (labels(0.5, 0.5, 0.0, 0.0), False, "do-not-deploy"),
        (labels(0.5, 0.5, -0.1, 0.1, max_drop=0.2), False, "do-not-deploy"),
        (labels(0.5, 0.6, -0.1, 0.3), False, "do-not-deploy"),
        (labels(0.7, 0.5, -0.3, -0.1), False, "do-not-deploy"),
        (labels(0.7, 0.7, None, None), False, "do-not-deploy"),
        (labels(0.7, 0.7, 0.0, 0.0), True, "do-not-deploy"),
    ],
)
def test_labels_on_mismatched_input(change: LabeledChange, kept: bool, code: str) -> None:  # noqa: FBT001 - a table
    judgment = judge_by_labels(change, source_kept=kept)
    found = verdict(judgment, evidence(labels=change, source_kept=kept, input_check=MISMATCH))
    assert found.code == code
    assert [reason.code for reason in found.reasons] == ["input-mismatch", *judgment.reasons]
    assert found.next_steps == (
        "Divide by 255.",
        "Recalibrate again with the corrected preprocessing.",
    )


def few(**changes: object) -> Verdict:
    judgment = Judgment(
        code=VerdictCode.CHECK_WITH_LABELS,
        reasons=(ReasonCode.TOO_FEW_SAMPLES, ReasonCode.SOURCE_KEPT),
    )
    return verdict(judgment, evidence(source_kept=True, **changes))


@pytest.mark.parametrize(("samples", "needed"), [(8, 16), (15, 16), (16, 32), (31, 32)])
def test_few_samples_name_the_number_for_deploy(samples: int, needed: int) -> None:
    found = few(samples=samples)
    assert f"{samples} samples are too few (deploy needs at least {needed}" in found.sentence
    assert found.next_steps[0] == (
        "Send at least 32 samples: with fewer than 16 the verdict is never deploy, and with fewer "
        "than 32 only for a large gain."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 2}, "at least 16 samples of all classes"),
        ({"classes": 310}, "With 310 classes, the verdict is deploy only with labels"),
        ({"classes": 1000}, "at least 1,000 samples of all classes and is declared"),
        ({"classes": 1000, "probe_samples": 8}, "at least 1,000 samples"),
        ({"classes": 10, "per_position": True}, "For score maps"),
        ({"classes": None}, "Without class scores"),
    ],
)
@pytest.mark.parametrize("reason", [ReasonCode.TOO_FEW_SAMPLES, ReasonCode.FEW_CLASSES_IN_STREAM])
def test_more_samples_are_not_advised_where_they_cannot_help(
    reason: ReasonCode, changes: dict[str, object], words: str
) -> None:
    judgment = Judgment(code=VerdictCode.CHECK_WITH_LABELS, reasons=(reason,))
    found = verdict(judgment, evidence(samples=8, **changes))
    assert words in found.next_steps[0]
    assert "Send" not in " ".join(found.next_steps)
    assert "deploy needs" not in found.sentence


def test_unset_statistics_need_samples_with_any_number_of_classes() -> None:
    reasons = (ReasonCode.TOO_FEW_SAMPLES, ReasonCode.SOURCE_STATISTICS_UNSET)
    judgment = Judgment(code=VerdictCode.CHECK_WITH_LABELS, reasons=reasons)
    found = verdict(judgment, evidence(samples=8, classes=1000))
    assert "8 samples are too few (deploy needs at least 32)." in found.sentence
    assert found.next_steps[0].startswith("Send at least 32 samples")


@pytest.mark.parametrize(("samples", "declared"), [(11, False), (12, True)])
def test_advice_to_declare_needs_a_sample_per_class(samples: int, *, declared: bool) -> None:
    reason = ReasonCode.FEW_CLASSES_IN_STREAM
    judgment = Judgment(code=VerdictCode.CHECK_WITH_LABELS, reasons=(reason,))
    found = verdict(judgment, evidence(samples=samples))
    assert ("Auto(varied=True)" in " ".join(found.next_steps)) == declared
