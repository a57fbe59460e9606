"""Rows of the study of `Auto`, the rule applied to them, and the tables of docs/evidence.md."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.choice import letters, table
from benchmarks.accuracy.choice.candidates import SHARES, measure, mixed, shares
from benchmarks.accuracy.choice.policy import decide, judge_candidate
from benchmarks.accuracy.choice.rows import (
    EARLY,
    REPLACE,
    SOURCE,
    Measured,
    Row,
    read_rows,
    write_rows,
)
from benchmarks.accuracy.choice.streams import STREAMS, Stream, draw_images, draw_pictures, planned
from benchmarks.accuracy.choice.summary import FAMILIES, development, summarize, upper_bound
from examples.digits.train import MnistResNet

Array = NDArray[np.float64]


def measured(
    correct: int,
    gain: float = 0.0,
    *,
    error: float = 0.01,
    rise: float = 0.0,
    classes: float = 8.0,
) -> Measured:
    return Measured(
        correct=correct,
        gain=gain,
        gain_error=error,
        entropy_rise=rise,
        distinct_classes=classes,
    )


CLEAR = Row(
    network="fashion1",
    change="",
    domain="fog",
    stream="mixed",
    samples=64,
    draw=0,
    classes=10,
    tested=100,
    candidates={
        SOURCE: measured(40, error=0.0),
        "share-0.02": measured(41, 0.01),
        "share-0.1": measured(42, 0.02),
        EARLY: measured(60, 0.1),
        REPLACE: measured(70, 0.2),
        "half-0.1": measured(75, 0.15),
    },
)
# Gains below their error: the source is kept.
DOUBTFUL = replace(
    CLEAR,
    domain="snow",
    candidates={
        name: replace(found, gain_error=0.0 if name == SOURCE else 0.3, correct=found.correct - 35)
        for name, found in CLEAR.candidates.items()
    },
)
HARMFUL = replace(
    CLEAR,
    network="digits0",
    domain="mnist",
    samples=8,
    candidates={**CLEAR.candidates, REPLACE: measured(31, 0.2)},
)


def test_rule_applied_to_rows() -> None:
    assert (decide(CLEAR).candidate, decide(CLEAR).verdict.value) == (REPLACE, "deploy")
    few = replace(CLEAR, samples=15)
    assert (decide(few).candidate, decide(few).verdict.value) == (REPLACE, "check-with-labels")
    assert (decide(DOUBTFUL).candidate, decide(DOUBTFUL).verdict.value) == (SOURCE, "do-not-deploy")
    assert decide(DOUBTFUL, varied=True).candidate == REPLACE
    reset = replace(DOUBTFUL, change="reset")
    assert (decide(reset).candidate, decide(reset).verdict.value) == (REPLACE, "deploy")


def test_verdict_on_a_given_candidate() -> None:
    assert judge_candidate(CLEAR, REPLACE).value == "deploy"
    worse = {**CLEAR.candidates, REPLACE: measured(20, -0.3)}
    assert judge_candidate(replace(CLEAR, candidates=worse), REPLACE).value == "do-not-deploy"


def test_gain_reconstructed_from_mean_and_error() -> None:
    # At exactly twice its error a gain counts; a millionth more error, and it does not.
    at_limit = {**CLEAR.candidates, EARLY: measured(60), REPLACE: measured(70, 0.2, error=0.1)}
    above = {**at_limit, REPLACE: measured(70, 0.2, error=0.100001)}
    assert decide(replace(CLEAR, candidates=at_limit)).candidate == REPLACE
    assert decide(replace(CLEAR, candidates=above)).candidate != REPLACE


def test_figures_of_a_policy() -> None:
    found = summarize([(CLEAR, REPLACE), (HARMFUL, REPLACE), (DOUBTFUL, SOURCE)])
    assert found.regret == pytest.approx((5 + 44 + 35) / 3)
    assert found.worst_regret == 44
    assert found.worst_change == -9
    assert found.harmful == 1


def test_tables_of_three_rows() -> None:
    every = {name: measured(5) for name in SHARES}
    rows = [
        replace(row, candidates={**every, **row.candidates}) for row in (CLEAR, DOUBTFUL, HARMFUL)
    ]
    text = table.results(rows)
    assert "| mixed | 3 | 2 | 1 | 2 | 1 | 1 | 1 | 1 | 1 |" in text
    assert "| Held out | 1 | 0 | 0 to 97.5 % | 0 of 1 (0 %) | 0 of 1 (0 %) | 1 | 1 | 35.0 |" in text
    assert "| Development | 0 | – | – | – | – | 0 | – | – |" in text
    harm = "44.0 / 44.0 / -9.0 / 1"
    assert f"| mixed | 8 | 1 | 35.0 / 35.0 / 0.0 / 0 | {harm} | {harm} | {harm} |" in text
    assert "| fashion1 | snow | mixed | 64 | source | 5.0 % | +35.0 | `do-not-deploy` |" in text


def test_exact_interval() -> None:
    # 0 of n: the upper end solves (1 - p)^n = 0.025.
    assert upper_bound(0, 315) == pytest.approx(1 - 0.025 ** (1 / 315))
    assert upper_bound(2, 2) == 1
    # 1 of 10, from the table of Clopper & Pearson 1934: 0.4450.
    assert upper_bound(1, 10) == pytest.approx(0.4450, abs=1e-4)


def test_rows_survive_a_file(tmp_path: Path) -> None:
    single = {**CLEAR.candidates, REPLACE: measured(70, 0.2, error=math.inf)}
    rows = [CLEAR, replace(CLEAR, samples=1, candidates=single)]
    path = write_rows(rows, {"device": "test"}, tmp_path / "rows.json.gz")
    assert read_rows(path) == rows
    first = path.read_bytes()
    assert write_rows(rows, {"device": "test"}, path).read_bytes() == first


def test_every_stored_row_has_one_family() -> None:
    rows = read_rows()
    assert len(rows) == 3_430
    assert all(sum(belongs(row) for belongs in FAMILIES.values()) == 1 for row in rows)
    assert {development(row) for row in rows} == {True, False}
    assert all(0 <= row.candidates[name].correct <= row.tested for row in rows for name in SHARES)


@pytest.mark.parametrize(
    "block",
    [
        "choice-short",
        "choice",
        "choice-later",
        "choice-front",
        "choice-limits",
        pytest.param("choice-thresholds", marks=pytest.mark.slow),
    ],
)
def test_page_has_the_figures_of_the_stored_rows(block: str) -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    written = page.split(f"<!-- {block}: begin -->")[1].split(f"<!-- {block}: end -->")[0]
    assert written.strip() == table.BLOCKS[block](read_rows()).strip(), (
        "run python -m benchmarks.accuracy.choice.table"
    )


def test_shares_per_layer() -> None:
    assert shares(SOURCE, 4) == [0.0] * 4
    assert shares("share-0.02", 2) == [0.02] * 2
    assert shares(EARLY, 7) == [1.0] * 3 + [0.1] * 4
    assert shares("half-0.5", 7) == [1.0] * 4 + [0.5] * 3


def test_candidates_against_batchnorm() -> None:
    torch.manual_seed(0)
    network = MnistResNet(4).eval()
    stream, test = torch.rand(12, 1, 28, 28), torch.rand(5, 1, 28, 28)
    found = mixed(network, torch.device("cpu"))
    unchanged = found.probabilities(test, 1, shares(SOURCE, found.layers))
    with torch.inference_mode():
        torch.testing.assert_close(unchanged, network(test).double().softmax(1), atol=1e-5, rtol=0)
        # The whole target: what train mode computes for a batch that is the stream.
        expected = network.train()(stream).double().softmax(1)
    whole = found.probabilities(torch.cat([stream, test]), 12, shares(REPLACE, found.layers))
    torch.testing.assert_close(whole[:12], expected, atol=1e-4, rtol=0)


def test_measurement_against_float64_formula() -> None:
    torch.manual_seed(1)
    network = mixed(MnistResNet(4), torch.device("cpu"))
    stream, test = torch.rand(9, 1, 28, 28), torch.rand(6, 1, 28, 28)
    labels = np.arange(6)
    found = measure(network, stream, test, labels)

    def objective(name: str) -> tuple[Array, float, Array]:
        p = network.probabilities(torch.cat([stream, test]), 9, shares(name, network.layers))
        rows, rest = p[:9].numpy(), p[9:].numpy()
        entropy = -(rows * np.log(rows)).sum(1)
        information = (rows * np.log(rows / rows.mean(0))).sum(1)
        return information - entropy / 2, float(entropy.mean()), rest

    before, after = objective(SOURCE), objective(REPLACE)
    change = (after[0] - before[0]) / np.log(9)
    replaced = found[REPLACE]
    assert replaced.gain == pytest.approx(change.mean())
    assert replaced.gain_error == pytest.approx(np.std(change, ddof=1) / 3)
    assert replaced.entropy_rise == pytest.approx((after[1] - before[1]) / np.log(10))
    assert replaced.correct == int((after[2].argmax(1) == labels).sum())
    assert found[SOURCE].gain_error == 0


def test_streams_hold_the_planned_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 4_000)
    for kind, count in (("mixed", 10), ("five", 5), ("three", 3), ("two", 2), ("one", 1)):
        picked = draw_images(Stream(kind=kind, samples=256, draw=0), labels, 3)
        assert len(np.unique(labels[picked])) == count
        assert len(np.unique(picked)) == 256
    tail = draw_images(Stream(kind="tail", samples=256, draw=0), labels, 3)
    most = np.sort(np.bincount(labels[tail], minlength=10))[::-1]
    assert most[0] > most[2] > most[5]
    assert len(list(planned(STREAMS))) == 40


def test_streams_of_more_than_ten_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 26, 4_000)
    for kind, count in (("mixed", 26), ("three", 3)):
        picked = draw_images(Stream(kind=kind, samples=400, draw=0), labels, 3)
        assert len(np.unique(labels[picked])) == count
    tail = draw_images(Stream(kind="tail", samples=256, draw=0), labels, 3)
    most = np.sort(np.bincount(labels[tail], minlength=26))[::-1]
    assert most[0] > most[2] > most[5]


def test_letters_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(mpl.get_data_path(), "fonts")
    monkeypatch.setattr(letters, "_FOLDER", folder)
    monkeypatch.setattr(
        letters,
        "FONTS",
        {"train": ("ttf/DejaVuSans.ttf", "ttf/DejaVuSerif-Bold.ttf"), "none": ("*.otf",)},
    )
    first, same, other = (letters.draw_letters("train", 40, seed=seed) for seed in (1, 1, 2))
    assert first.images.shape == (40, 1, 28, 28)
    assert first.images.dtype == np.float32
    assert first.images.min() == 0
    assert first.images.max(axis=(1, 2, 3)).min() > 0.3
    np.testing.assert_array_equal(first.images, same.images)
    assert not np.array_equal(first.labels, other.labels)
    assert len(np.unique(first.labels)) > 10
    with pytest.raises(FileNotFoundError, match="fonts-liberation"):
        letters.draw_letters("none", 1, seed=0)


def test_pictures_of_stream_and_test_are_disjoint() -> None:
    labels = np.repeat(np.arange(20), 10)
    for kind, crops in (("mixed", 1), ("narrow", 1), ("mixed", 10)):
        drawn = draw_pictures(Stream(kind=kind, samples=16, draw=0), labels, crops, 5)
        assert drawn is not None
        picked, rest = drawn
        assert len(picked) == 16
        assert not set(picked) & set(rest)
        if kind == "narrow":
            assert (np.diff(labels[picked]) >= 0).all()
    assert draw_pictures(Stream(kind="mixed", samples=32, draw=0), labels[:20], 1, 5) is None
