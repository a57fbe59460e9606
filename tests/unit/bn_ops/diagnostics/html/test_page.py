"""What the page says, in which order, and that it is well-formed and accessible."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import html5lib
import pytest

from bn_ops.diagnostics.html import render_html
from bn_ops.diagnostics.html.chart import drift_chart
from bn_ops.diagnostics.html.stages import stages
from bn_ops.diagnostics.report import (
    Candidate,
    FrozenReport,
    Origin,
    Report,
    SkippedSample,
    StreamReport,
    VerdictCode,
)
from tests.support.reports import Page, full_report, many_layers, words

NETWORK = [f"features.{stage}.{layer}.bn" for stage in range(5) for layer in range(8)]


def bare() -> Report:
    """Return a report without optional members."""
    return Report(
        bnrecal="0.1.0",
        engine="onnx",
        method="exact",
        estimator={"name": "replace"},
        layers_selected=None,
        source_sha256=None,
        stream=StreamReport(batches=1, samples=1),
        layers=(),
        frozen=FrozenReport(tensors={}, sha256_before="", sha256_after=""),
        timings={},
    )


def without_labels() -> Report:
    return replace(full_report(), evaluation=None, metric=None)


def large() -> Report:
    return replace(full_report(), layers=many_layers(NETWORK))


REPORTS = {"full": full_report, "bare": bare, "large": large, "without labels": without_labels}
each_report = pytest.mark.parametrize("report", [make() for make in REPORTS.values()], ids=REPORTS)


@each_report
def test_page_is_valid_html(report: Report) -> None:
    html5lib.HTMLParser(strict=True).parse(render_html(report))


@each_report
def test_structure_for_assistive_technology(report: Report) -> None:
    page = Page(render_html(report))
    levels = [int(tag[1]) for tag, _ in page.starts if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert {"header", "main"} <= page.elements
    assert next(attrs for tag, attrs in page.starts if tag == "html")["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.starts if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.starts:
        assert set((attrs.get("aria-labelledby") or "").split()) <= set(ids)
        if tag == "th":
            assert attrs.get("scope") in {"row", "col"}
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or attrs.get("role") == "img"


@each_report
def test_every_cell_of_a_list_names_its_column(report: Report) -> None:
    page = render_html(report)
    for table in re.findall(r'<table class="[^"]*wide">.*?</table>', page, flags=re.DOTALL):
        columns = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
        for row in re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], flags=re.DOTALL):
            assert re.findall(r'data-label="(.*?)"', row) == columns[1:]


@each_report
def test_no_number_has_an_exponent(report: Report) -> None:
    text = re.sub(r"<(style|script|code)>.*?</\1>", "", render_html(report), flags=re.DOTALL)
    assert re.findall(r"\d[eE][+-]?\d", text) == []


def test_first_screen_is_in_order() -> None:
    text = words(render_html(full_report()))
    parts = [
        "BatchNorm recalibration of block1.bn1",
        "with block1.bn1 · 27 November 2026, 08:01 UTC · bnrecal 0.1.0",
        "Check with labels first Check it: read by two nodes.",
        "Your metric 0.123 → 0.456 on 63 labeled samples",
        "Drift of the statistics 0.44 σ",
        "Samples 900 enough: about 200 are needed",
        "Drift: how far each layer's statistics moved, in σ",
        "What to do next Send more of block1.bn1.",
        "Why 6.5 of 12: block1.bn1. few-classes-in-stream",
        "Warnings 1 point to check before deploying.",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_input_of_an_untrained_network_is_not_called_plausible() -> None:
    report = full_report()
    assert report.input_check is not None
    unknown = replace(report.input_check, distance=None, spread=None, findings=())
    text = words(render_html(replace(report, input_check=unknown)))
    assert "Not compared: no channel of the first layers has trained statistics." in text
    assert "fit the first layers" not in text


def test_evidence() -> None:
    text = words(render_html(full_report()))
    for expected in (
        "The error went from 46.8 % to 9.5 % on 63 labels.",
        "block1.bn1 64 63 46.8 % 9.5 % 26 2 < 0.001",
        "0.211 to 0.422 (paired bootstrap",
        "112 of 256 predictions changed; 6.2 → 9.7 of 12 classes are in use.",
        "Mean confidence 51.2 % 73.4 %",
        "4 → 7 11",
        "early 0.321 ± 0.012 -0.046 6.5",
        "Score on the labeled samples: shrink 0.789.",
        "Yes: 900 samples were read, and about 200 are needed",
        "1.04 times that over single samples, so the stream is worth about 832 independent",
        "1 sample could not be used.",
        "block1.bn1 1,234 read by two nodes",
        (
            "The input of the first layers is 237 σ from what they store, in the median "
            "channel; up to 4.5 σ can be a new domain."
        ),
        "Too far: read by two nodes. Block1.bn1. scale",
        "1 of 2 layers recalibrated, 1 unreached.",
        "silent in the new domain, keep the old variance: channel 0, 1, 2, 3, 4, 5, 6, 7 … (12 in",
        "16 0.44 σ 0.31 σ max 1.87 ×1.28 max ×4.48 ± 0.02 σ ± 1.7 % 1.75 → 0.01 σ",
        "unreached: no batch reached it",
        (
            "1 of 2 layers folded into their neighbors; verification passed: the outputs differ "
            "by at most 0.31 ppm of their scale, 12.0 ppm allowed."
        ),
        "block1.bn1 0.31 ppm 0.02 ppm 0.19 ppm 12.0 ppm 0.00 ppm",
        "1 other tensor of the model unchanged, by sha256.",
        "bnrecal recalibrate block1.bn1",
        "sha256 " + "12" * 32,
        "sha256 " + "ab" * 32,
        "cd" * 32,
        "ef" * 32,
        "prior (samples 16)",
        "1.5 s: reading 0.0 s, measuring 1.5 s",
    ):
        assert expected in text, expected


@pytest.mark.parametrize(
    ("code", "title", "step"),
    [
        (VerdictCode.DEPLOY, "Deploy", "Deploy the recalibrated and folded model"),
        (VerdictCode.CHECK_WITH_LABELS, "Check with labels first", "Keep the source model."),
        (VerdictCode.DO_NOT_DEPLOY, "Do not deploy", "Keep the source model."),
    ],
)
def test_verdict_without_next_steps_has_one(code: VerdictCode, title: str, step: str) -> None:
    report = full_report()
    assert report.verdict is not None
    page = render_html(replace(report, verdict=replace(report.verdict, code=code, next_steps=())))
    assert f"<title>{title}: " in page
    assert f"What to do next {step}" in words(page)


def test_number_of_the_effect() -> None:
    report = replace(full_report(), metric=None)
    assert "Error on labeled samples 46.8 % → 9.5 %" in words(render_html(report))
    report = replace(report, evaluation=None)
    assert "Predictions that changed 44 % 112 of 256 samples" in words(render_html(report))
    report = replace(report, prediction_shift=None)
    assert "Layers recalibrated 1 of 2" in words(render_html(report))


def test_too_few_samples() -> None:
    report = full_report()
    page = words(render_html(replace(report, stream=replace(report.stream, samples=60))))
    assert "Samples 60 too few: about 200 are needed" in page
    assert "No: 60 samples were read" in page


def test_correlated_samples_count_less() -> None:
    report = full_report()
    correlation = report.stream.correlation
    assert correlation is not None
    correlation = replace(correlation, suspicious=True, effective_samples=150)
    stream = replace(report.stream, correlation=correlation)
    text = words(render_html(replace(report, stream=stream)))
    assert "No: 900 samples, worth about 150 independent ones, were read" in text


def test_failed_verification_and_changed_tensor() -> None:
    report = full_report()
    assert report.parity is not None
    [output] = report.parity.outputs
    output = replace(output, failure="by 3 times the limit")
    parity = replace(
        report.parity, passed=False, max_relative_error=float("inf"), outputs=(output,)
    )
    frozen = replace(report.frozen, sha256_after="01" * 32)
    text = words(render_html(replace(report, parity=parity, frozen=frozen)))
    assert "verification failed: the outputs differ by at most – of their scale" in text
    assert "failed by 3 times the limit" in text
    assert "1 other tensor of the model CHANGED" in text


def test_missing_members_leave_no_trace() -> None:
    text = words(render_html(bare()))
    assert text.startswith("No verdict: BatchNorm recalibration of a model")
    for absent in ("Fold and proof", "Predictions", "Warnings", "left out", "Time", "Input"):
        assert absent not in text
    assert "bnrecal recalibrate MODEL DATA --estimator replace" in text


def test_source_statistics_kept() -> None:
    report = full_report()
    first = report.layers[0]
    assert first.drift is not None
    still = replace(first, drift=replace(first.drift, wasserstein=0.0), status="unchanged")
    text = words(render_html(replace(report, layers=(still,))))
    assert "Distance of the data 1.79 σ" in text  # hypot(1.75, 0.625 - 1)
    assert "How far each layer's input is from its statistics, which were kept" in text


@pytest.mark.parametrize("candidate", Candidate)
def test_choice_is_put_into_words(candidate: Candidate) -> None:
    report = full_report()
    assert report.choice is not None
    page = render_html(replace(report, choice=replace(report.choice, candidate=candidate)))
    assert f"Auto chose {candidate}: " in words(page)


def test_bars_of_many_layers_leave_no_gap() -> None:
    def widths(layers: int) -> tuple[float, float]:
        """Return the width of a bar, and of the slot of a layer."""
        report = replace(full_report(), layers=many_layers([f"l{n}" for n in range(layers)]))
        chart = drift_chart(report, stages(report.layers))
        assert chart is not None
        return chart.bars[0].width, 100 / layers

    few, slot = widths(100)
    assert few < slot
    many, slot = widths(500)
    assert many == slot


def test_long_list_of_skipped_samples_is_cut() -> None:
    skipped = tuple(
        SkippedSample(index=index, name=f"{index}.png", reason="unreadable") for index in range(60)
    )
    text = words(render_html(replace(full_report(), skipped_samples=skipped)))
    assert "49.png" in text
    assert "50.png" not in text
    assert "and 10 more, which the JSON report lists." in text


def test_layers_are_in_stages_with_a_search() -> None:
    page = render_html(large())
    assert page.count('<details class="stage"><summary>') == 5
    assert "features.4 8 layers; drift up to 0.40 σ" in words(page)
    assert 'id="find"' in page
    assert 'id="find"' not in render_html(full_report())


@pytest.mark.parametrize(
    ("engine", "estimator", "layers", "expected"),
    [
        (
            "onnx",
            {"name": "prior", "samples": 16, "mixture": True},
            ("a*", "!a b"),
            (
                "bnrecal recalibrate m.onnx 'my photos' --estimator prior:16:mixture "
                "--layers 'a*' '!a b'"
            ),
        ),
        (
            "torch",
            {"name": "auto", "varied": False},
            None,
            "bn_ops.recalibrate(model, batches, estimator='auto')",
        ),
    ],
)
def test_command_that_repeats_the_run(
    engine: str, estimator: dict[str, str | int | bool], layers: tuple[str, ...], expected: str
) -> None:
    report = replace(
        bare(),
        engine=engine,
        estimator=estimator,
        layers_selected=layers,
        origin=Origin(model_name="m.onnx", data_name="my photos"),
    )
    assert expected in words(render_html(report))
