"""A report in which every member is set, and a parser of the page that shows it."""

from __future__ import annotations

from html.parser import HTMLParser

from bn_ops.diagnostics.report import (
    ActivationReport,
    ActivationSummary,
    Candidate,
    CandidateScore,
    Choice,
    ClassChange,
    Confidence,
    Correlation,
    DriftSummary,
    EvaluationReport,
    FrozenReport,
    LabeledScore,
    LayerFold,
    LayerReport,
    MetricReport,
    Origin,
    OutputParity,
    Parity,
    PredictionShift,
    ReasonCode,
    Report,
    SkippedSample,
    StreamReport,
    Verdict,
    VerdictCode,
    VerdictReason,
)
from bn_ops.input_check.result import InputCheck, InputFinding, PreprocessingScore
from bn_ops.preprocess.value import Preprocess

__all__ = ["Page", "full_report", "many_layers", "words"]

VOID = {"meta", "link", "br", "input"}


def full_report(name: str = "block1.bn1", reason: str = "read by two nodes") -> Report:
    """Return a report in which every member is set; `name` and `reason` come from a model."""
    drift = DriftSummary(
        mean_shift_median=0.31,
        mean_shift_max=1.87,
        log_var_ratio_median=0.25,
        log_var_ratio_max=1.5,
        wasserstein=0.44,
    )
    layers = (
        LayerReport(
            name=name,
            status="recalibrated",
            channels=16,
            samples=900,
            count=705_600,
            drift=drift,
            confidence=Confidence(mean_error=0.021, scale_error=0.017, samples_needed=200),
            dead_channels=(3,),
            silenced_channels=tuple(range(12)),
            amplification=2.5,
            residual_mean=3e-5,
            residual_var=4e-6,
            activations=ActivationReport(
                samples=32,
                before=ActivationSummary(
                    mean=0.5, spread=2.0, normalized_shift=1.75, normalized_spread=0.625
                ),
                after=ActivationSummary(
                    mean=0.25, spread=1.5, normalized_shift=0.0125, normalized_spread=0.995
                ),
            ),
        ),
        LayerReport(name="head.bn", status="unreached", reason="no batch reached it", channels=4),
    )
    fold = (
        LayerFold(name=name, status="folded", rule="Conv → BN", reason=None),
        LayerFold(name="head.bn", status="kept", rule=None, reason=reason),
    )
    parity = Parity(
        outputs=(
            OutputParity(
                name=name,
                max_relative_error=3.1e-7,
                mean_relative_error=2.0e-8,
                rounding=1.9e-7,
                allowed=1.2e-5,
                worst_samples="batch 1",
                exact_error=6.5e-13,
            ),
        ),
        reference="float64",
        notes=(f"{reason} (noted)",),
        samples=900,
        tolerance=1e-5,
        max_relative_error=3.1e-7,
        passed=True,
    )
    correlation = Correlation(
        blocks=30,
        block_samples=30,
        design_effect=1.0816,
        error_ratio=1.04,
        effective_samples=832,
        suspicious=False,
    )
    shift = PredictionShift(
        output=name,
        samples=256,
        classes=12,
        agreement=0.5625,
        entropy_change=-0.31,
        effective_classes_before=6.2,
        effective_classes_after=9.7,
        less_certain=False,
        collapsed=False,
        changes=(ClassChange(before=4, after=7, samples=11),),
        confidence_before=0.512,
        confidence_after=0.734,
    )
    return Report(
        bnrecal="0.1.0",
        engine="onnx",
        method="exact",
        estimator={"name": "prior", "samples": 16},
        layers_selected=("block*", name),
        source_sha256="ab" * 32,
        stream=StreamReport(batches=29, samples=900, correlation=correlation, sha256="12" * 32),
        layers=layers,
        frozen=FrozenReport(
            tensors={name: "cd" * 32}, sha256_before="ef" * 32, sha256_after="ef" * 32
        ),
        timings={"reading": 0.01, "measuring": 1.5},
        warnings=(f"layers were reached by no batch: {name!r}",),
        fold=fold,
        parity=parity,
        prediction_shift=shift,
        evaluation=EvaluationReport(
            output=name,
            samples=64,
            labels=63,
            error_before=0.468,
            error_after=0.095,
            newly_wrong=2,
            newly_right=26,
            p_value=3.03e-6,
        ),
        metric=MetricReport(
            samples=63, before=0.123, after=0.456, change_low=0.211, change_high=0.422
        ),
        choice=Choice(
            candidate=Candidate.EARLY,
            scores=(
                CandidateScore(
                    candidate=Candidate.EARLY,
                    gain=0.321,
                    gain_error=0.0123,
                    entropy_rise=-0.0456,
                    distinct_classes=6.54,
                ),
            ),
            samples=61,
            output=name,
            classes=12,
            distinct_classes=6.54,
            labeled=(LabeledScore(candidate=Candidate.SHRINK, score=0.789),),
        ),
        verdict=Verdict(
            code=VerdictCode.CHECK_WITH_LABELS,
            sentence=f"Check it: {reason}.",
            reasons=(
                VerdictReason(code=ReasonCode.FEW_CLASSES_IN_STREAM, text=f"6.5 of 12: {name}."),
            ),
            next_steps=(f"Send more of {name}.",),
        ),
        input_check=InputCheck(
            samples=32,
            layers=(name,),
            channels=16,
            distance=236.6,
            spread=0.83,
            threshold=4.5,
            share_beyond_3=1.0,
            share_beyond_10=1.0,
            findings=(InputFinding(cause="scale", message=f"too far: {reason}", suggestion=name),),
            ranking=(
                PreprocessingScore(
                    name=name, preprocess=Preprocess(), color_order="rgb", distance=0.19
                ),
            ),
        ),
        skipped_samples=(SkippedSample(index=1_234, name=name, reason=reason),),
        origin=Origin(
            created="2026-11-27T08:01:51Z",
            model_name=name,
            data_name=name,
            command=f"bnrecal recalibrate {name}",
        ),
    )


def many_layers(names: list[str]) -> tuple[LayerReport, ...]:
    """Return a recalibrated layer for each name; the n-th moved by n/100 σ."""
    return tuple(
        LayerReport(
            name=name,
            status="recalibrated",
            channels=8,
            samples=900,
            drift=DriftSummary(
                mean_shift_median=0.1,
                mean_shift_max=0.2,
                log_var_ratio_median=0.1,
                log_var_ratio_max=0.2,
                wasserstein=(index + 1) / 100,
            ),
        )
        for index, name in enumerate(names)
    )


class Page(HTMLParser):
    """Collects elements, attributes and text, and checks that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.starts.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)


def words(page: str) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join(" ".join(Page(page).text).split())
