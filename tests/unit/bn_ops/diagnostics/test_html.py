from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from bn_ops.diagnostics.html import REPORT_CONTENT_SECURITY_POLICY, render_html
from bn_ops.diagnostics.report import (
    ActivationReport,
    ActivationSummary,
    Candidate,
    CandidateScore,
    Choice,
    Confidence,
    Correlation,
    DriftSummary,
    EvaluationReport,
    FrozenReport,
    LabeledScore,
    LayerFold,
    LayerReport,
    MetricReport,
    OutputParity,
    Parity,
    PredictionShift,
    ReasonCode,
    Report,
    StreamReport,
    Verdict,
    VerdictCode,
    VerdictReason,
)

VOID = {"meta", "link", "br"}


def _report(name: str = "block1.bn1", reason: str = "read by two nodes") -> Report:
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
    )
    return Report(
        bnrecal="0.1.0",
        engine="onnx",
        method="exact",
        estimator={"name": "prior", "samples": 16},
        layers_selected=("block*", name),
        source_sha256="ab" * 32,
        stream=StreamReport(batches=29, samples=900, correlation=correlation),
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
    )


class _Page(HTMLParser):
    """Collect elements, attributes and text, and check that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def _words(page: str) -> str:
    return " ".join(" ".join(_Page(page).text).split())


def test_verdict_comes_first() -> None:
    words = _words(render_html(_report()))
    verdict, cards = words.index("check-with-labels Check it:"), words.index("1 of 2 layers")
    assert verdict < words.index("few-classes-in-stream") < words.index("Send more of") < cards


def test_choice_and_metric_are_shown() -> None:
    words = _words(render_html(_report()))
    assert "early 0.321 0.0123 -0.0456 6.54" in words
    assert "On the labeled samples: shrink 0.789" in words
    assert "63 0.123 0.456 0.211 to 0.422" in words


def test_page_shows_all_figures() -> None:
    words = _words(render_html(_report()))
    for expected in (
        "1 of 2 layers",  # recalibrated
        "900",
        "29 batches",
        "prior (samples 16)",
        "0.31, at most 1.87 σ",
        "×1.28, at most ×4.48",  # exp(0.25), exp(1.5)
        "0.44",
        "0.021",
        "0.017",
        "0, 1, 2, 3, 4, 5, 6, 7 … (12 in all)",
        "2.5 times the old one, in block1.bn1",
        "Conv → BN",
        "read by two nodes",
        "no batch reached it",
        "3.1e-07",
        "allowed 1.2e-05",
        "1.9e-07",  # rounding of the unfolded model
        "1.2e-05",  # what was allowed
        "6.5e-13",  # the error in float64
        "reference float64",
        "read by two nodes (noted)",
        "1.04 times that over single samples",
        "worth 832 independent samples",
        "About 200 samples would",
        "3e-05 σ in the mean and 4e-06 in the variance",
        "56.2 %",
        "6.2 → 9.7",
        "1.500 s",
        "1.51 s",  # sum of the phases
        "ab" * 32,
        "cd" * 32,
        "ef" * 32,
        "layers were reached by no batch",
    ):
        assert expected in words


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</style><style>*{display:none}</style>",
        "</td></tr></table><h1>All is well</h1>",
        '"><svg onload=alert(1)>',
        "' autofocus onfocus='alert(1)",
        "<!-- ",
        "]]><![CDATA[",
        "&lt;b&gt;",
        "javascript:alert(1)",
    ],
)
def test_text_of_model_is_escaped(hostile: str) -> None:
    harmless, attacked = render_html(_report()), render_html(_report(hostile, hostile))
    assert _Page(attacked).elements == _Page(harmless).elements
    assert _Page(attacked).attributes == _Page(harmless).attributes
    assert hostile in "".join(_Page(attacked).text)


def _poisoned(value: Any, hostile: str) -> Any:
    """Replace every string of a tree of frozen values, past their own checks."""
    if isinstance(value, str):
        return hostile
    if isinstance(value, tuple):
        return tuple(_poisoned(item, hostile) for item in value)
    if isinstance(value, dict):
        return {key: _poisoned(item, hostile) for key, item in value.items()} | {hostile: 1.0}
    if dataclasses.is_dataclass(value):
        value = copy.copy(value)
        for field in dataclasses.fields(value):
            item = _poisoned(getattr(value, field.name), hostile)
            object.__setattr__(value, field.name, item)
    return value


def test_all_strings_are_escaped() -> None:
    hostile = "<i onclick=x>"
    page = render_html(_poisoned(_report(), hostile))
    assert hostile not in page
    assert "onclick" not in _Page(page).attributes
    assert "".join(_Page(page).text).count(hostile) > 20


def test_invisible_characters() -> None:
    page = render_html(_report("safe\u202egnp.exe\x00\u200b\ud800"))
    assert "safe\\u{202e}gnp.exe\\u{0}\\u{200b}\\u{d800}" in page
    page.encode("utf-8")


def test_long_names_are_truncated() -> None:
    page = render_html(_report("n" * 1_000_000))
    assert len(page) < 50_000
    assert "(1,000,000 characters)" in page


def test_page_has_no_scripts_or_resources() -> None:
    page = render_html(_report())
    assert not _Page(page).elements & {"script", "link", "img", "iframe", "object", "form", "a"}
    assert not _Page(page).attributes & {"src", "href", "style", "action", "srcset"}
    assert "url(" not in page
    assert "@import" not in page


def test_policy_allows_only_the_style_sheet() -> None:
    page = render_html(_report())
    [style] = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in REPORT_CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in REPORT_CONTENT_SECURITY_POLICY
    assert "unsafe" not in REPORT_CONTENT_SECURITY_POLICY
    assert f"style-src 'sha256-{digest}'" in page.partition("</head>")[0]


def test_report_without_fold_and_parity() -> None:
    report = replace(_report(), fold=None, parity=None, prediction_shift=None, warnings=())
    words = _words(render_html(report))
    assert "Drift by layer" in words
    for absent in ("Folding", "Parity", "Predictions", "Warnings"):
        assert absent not in words


def test_failed_parity_and_changed_tensor() -> None:
    report = _report()
    assert report.parity is not None
    parity = replace(report.parity, passed=False)
    frozen = replace(report.frozen, sha256_after="01" * 32)
    words = _words(render_html(replace(report, parity=parity, frozen=frozen)))
    assert "Parity failed" in words
    assert "Other tensors changed" in words
    assert "NOT equal" in words


def test_missing_and_infinite_numbers() -> None:
    report = _report()
    first = replace(report.layers[0], confidence=None, amplification=None)
    assert report.parity is not None
    parity = replace(report.parity, max_relative_error=float("inf"))
    words = _words(render_html(replace(report, layers=(first,), parity=parity)))
    assert "0.44 – –" in words
    assert "largest gain" not in words
    assert "largest error –" in words


def test_report_without_layers() -> None:
    frozen = FrozenReport(tensors={}, sha256_before="", sha256_after="")
    report = Report(
        bnrecal="0.1.0",
        engine="onnx",
        method="exact",
        estimator={"name": "replace"},
        layers_selected=None,
        source_sha256=None,
        stream=StreamReport(batches=1, samples=1),
        layers=(),
        frozen=frozen,
        timings={},
    )
    words = _words(render_html(report))
    assert "estimator replace · engine onnx · all layers" in words
    assert "in 1 batch" in words
    assert "Time by phase" not in words


@pytest.mark.parametrize(("near", "far"), [(0.5, 1.0), (1.0, 0.5)])
def test_longer_bar_is_drawn_first(near: float, far: float) -> None:
    report = _report()
    drift = report.layers[0].drift
    assert drift is not None
    drift = replace(drift, mean_shift_median=near, mean_shift_max=far)
    page = render_html(replace(report, layers=(replace(report.layers[0], drift=drift),)))
    row = page.partition("Drift by layer")[2].partition("</svg>")[0]
    drawn = re.findall(r'<rect width="([\d.]+)"[^>]* class="(near|far)"', row)
    widths = [float(width) for width, _ in drawn]
    assert widths == sorted(widths, reverse=True)
    assert {kind for _, kind in drawn} == {"near", "far"}
