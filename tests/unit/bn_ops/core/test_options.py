"""Options as strings and flags, and the one-line representation of results."""

from __future__ import annotations

import re

import numpy as np
import pytest

import bn_ops
from bn_ops import Progress
from bn_ops.core.options import progress_callback
from bn_ops.errors import OptionError
from tests.support.networks import images, residual_network

ESTIMATORS = [
    ("replace", bn_ops.Replace()),
    ("shrink", bn_ops.Shrink()),
    ("prior:64", bn_ops.Prior(64)),
    ("prior:0.5:mixture", bn_ops.Prior(0.5, mixture=True)),
    ("momentum:0.1", bn_ops.Momentum(0.1)),
]


@pytest.mark.parametrize(("text", "estimator"), ESTIMATORS)
def test_estimator_from_string(text: str, estimator: object) -> None:
    assert bn_ops.estimator_from_string(text) == estimator


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warp", "unknown estimator 'warp'"),
        ("prior", "requires an option"),
        ("prior:many", "'many' is neither a number nor"),
        ("prior:64:blend", "'blend' is neither a number nor"),
        ("shrink:2", "too many options"),
        ("momentum:2", "weight in"),
        ("prior:inf", "finite number"),
        ("", "unknown estimator ''"),
    ],
)
def test_invalid_estimator_strings(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bn_ops.estimator_from_string(text)


@pytest.mark.parametrize("text", ["warp", "prior", "prior:many", "shrink:2", ""])
def test_message_has_valid_forms(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        bn_ops.estimator_from_string(text)
    _, _, examples = str(caught.value).rpartition("write ")
    assert "prior:64" in examples
    for example in re.split(", | or ", examples):
        bn_ops.estimator_from_string(example)


def test_recalibrate_and_adapt_accept_a_string() -> None:
    batches = [images(4)]
    value = bn_ops.recalibrate(residual_network(), batches, estimator=bn_ops.Prior(8))
    text = bn_ops.recalibrate(residual_network(), batches, estimator="prior:8")
    artifact = bn_ops.adapt(residual_network(), batches, estimator="prior:8")
    assert text.report.estimator == value.report.estimator == artifact.report.estimator
    for name, statistics in value.statistics.items():
        np.testing.assert_array_equal(text.statistics[name].var, statistics.var)


@pytest.mark.parametrize("estimator", [64, bn_ops.Shrink, object()])
def test_invalid_estimator_types(estimator: object) -> None:
    with pytest.raises(OptionError, match="estimator= takes"):
        bn_ops.recalibrate(residual_network(), [images(2)], estimator=estimator)  # type: ignore[call-overload]


def test_progress_true_prints_phases(capsys: pytest.CaptureFixture[str]) -> None:
    bn_ops.adapt(residual_network(), [images(2), images(2)], progress=True)
    printed = capsys.readouterr()
    phases = [line.partition(":")[0] for line in printed.err.splitlines()]
    assert list(dict.fromkeys(phases)) == [
        "reading",
        "measuring",
        "choosing",
        "folding",
        "verifying",
    ]
    assert printed.out == ""


def test_terminal_updates_one_line_per_phase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    report = progress_callback(True)  # noqa: FBT003 - the value that callers pass
    for step in (("reading", 1, None), ("reading", 2, None), ("measuring", 2, 2)):
        report(Progress(phase=step[0], done=step[1], total=step[2]))
    assert capsys.readouterr().err == (
        "\rreading: 1\x1b[K\rreading: 2\x1b[K\n\rmeasuring: 2 of 2\x1b[K\n"
    )


@pytest.mark.parametrize("progress", [3, "yes", [print]])
def test_invalid_progress_types(progress: object) -> None:
    with pytest.raises(OptionError, match="progress= takes a function"):
        bn_ops.recalibrate(residual_network(), [images(2)], progress=progress)  # type: ignore[call-overload]


def test_repr_of_results_is_one_line() -> None:
    done = bn_ops.recalibrate(residual_network(), [images(2)])
    artifact = bn_ops.adapt(residual_network(), [images(2)])
    assert repr(done).startswith("Recalibration(ModelProto, ")
    assert "verified" in repr(artifact)
    for line in (repr(done), repr(artifact)):
        assert "\n" not in line
        assert len(line) < 120
