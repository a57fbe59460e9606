"""Labels in the client: the result of a server is compared with the source on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import bn_ops
from bnrecal_client import OptionError, Result, UnexpectedResponseError
from bnrecal_client import _library as library
from bnrecal_client._library import LabeledSamples
from bnrecal_client.cli import main
from bnrecal_client.cli.arguments import load_metric
from bnrecal_client.cli.exit_codes import Exit
from tests.support.client_server import MODEL, ClientServer
from tests.support.played_clients import Calls, stream
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"
X = np.random.default_rng(0).random((40, 1, 28, 28), dtype=np.float32)
Y = np.arange(40) % 10


def accuracy(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    return float((outputs.argmax(axis=1) == labels).mean())


def predictions(model: bytes) -> NDArray[Any]:
    (scores,) = ort.InferenceSession(model).run(None, {"image": X})
    found: NDArray[Any] = np.asarray(scores).argmax(axis=1)
    return found


@pytest.fixture(scope="module")
def artifact() -> bn_ops.Artifact:
    return bn_ops.adapt(DIGITS, [X], estimator="replace", allow_mismatch=True)


@pytest.fixture
def result(artifact: bn_ops.Artifact) -> Result:
    """Return the artifact as a server would hand it out."""
    return Result(
        recalibration_id="rc_1",
        model=artifact.model.SerializeToString(),
        unfolded=None,
        report=json.loads(json.dumps(artifact.report.to_json())),
        report_html="",
        statistics={},
    )


def samples(
    metric: library.Metric | None = None, *, max_drop: float = 0.0, labels: Any = Y
) -> LabeledSamples:
    pairs = [(X[:25], labels[:25]), (X[25:], labels[25:])]
    return LabeledSamples(pairs=pairs, metric=metric, max_drop=max_drop)


def test_the_error_of_both_models_is_in_the_report(result: Result) -> None:
    found = samples().compare(result, DIGITS, None)
    evaluation = found.report["evaluation"]
    assert evaluation is not None
    before, after = predictions(DIGITS.read_bytes()), predictions(result.model)
    assert evaluation["samples"] == 40
    assert evaluation["error_before"] == pytest.approx((before != Y).mean(), abs=1e-12)
    assert evaluation["error_after"] == pytest.approx((after != Y).mean(), abs=1e-12)
    assert found.model == result.model
    assert "verdict" in found.report_html.lower() or found.report_html.startswith("<!doctype")


def test_the_verdict_is_that_of_a_run_with_labels(result: Result) -> None:
    pairs = [(X[:25], Y[:25]), (X[25:], Y[25:])]
    expected = bn_ops.adapt(
        DIGITS, [X], estimator="replace", evaluate=pairs, allow_mismatch=True
    ).report
    found = samples().compare(result, str(DIGITS), None)
    assert expected.verdict is not None
    assert found.report["evaluation"] == expected.to_json()["evaluation"]
    assert found.report["verdict"] == expected.verdict.to_json()


def test_labels_decide_the_verdict(result: Result) -> None:
    source = DIGITS.read_bytes()
    right_before, right_after = predictions(source), predictions(result.model)
    assert (right_before != right_after).mean() > 0.3
    worse = samples(labels=right_before).compare(result, source, None).verdict
    better = samples(labels=right_after).compare(result, source, None).verdict
    assert worse is not None
    assert better is not None
    assert (worse.code, worse.reasons[0].code) == ("do-not-deploy", "labels-worse")
    assert better.reasons[0].code in {"labels-better", "input-mismatch"}
    tolerant = samples(labels=right_before, max_drop=1.0).compare(result, source, None).verdict
    assert tolerant is not None
    assert tolerant.code != "do-not-deploy"


def test_a_metric_replaces_the_error(result: Result) -> None:
    found = samples(accuracy).compare(result, DIGITS, None)
    metric = found.report["metric"]
    assert metric is not None
    assert metric["before"] == pytest.approx((predictions(DIGITS.read_bytes()) == Y).mean())
    assert metric["after"] == pytest.approx((predictions(result.model) == Y).mean())
    assert found.report["evaluation"] is None


def test_labels_that_do_not_fit_are_an_error(result: Result) -> None:
    with pytest.raises(OptionError, match="classes 0 to 10"):
        samples(labels=Y + 1).compare(result, DIGITS, None)


def test_a_report_of_another_version_is_an_error(result: Result) -> None:
    other = Result(
        recalibration_id="rc_1",
        model=result.model,
        unfolded=None,
        report={"report": 9},
        report_html="",
        statistics={},
    )
    with pytest.raises(UnexpectedResponseError, match="install the version"):
        samples().compare(other, DIGITS, None)


def test_labels_need_bn_ops_before_anything_is_sent(
    client: Calls, server: ClientServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match="pip install bnrecal"):
        client.recalibrate(MODEL, stream(), evaluate=[(stream()[0], np.zeros(4, np.int64))])
    assert server.transport.requests == []


@pytest.mark.parametrize("option", [{"metric": accuracy}, {"max_drop": 0.1}])
def test_options_about_labels_need_labels(
    client: Calls, server: ClientServer, option: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match="pass evaluate="):
        client.recalibrate(MODEL, stream(), **option)
    assert server.transport.requests == []


def test_labels_need_the_model_when_a_run_is_resumed(client: Calls) -> None:
    with pytest.raises(OptionError, match="runs the source model on this machine"):
        client.recalibrate(None, stream(), resume="rc_1", evaluate=[])


def test_a_metric_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_scores_1.py").write_text("def half(outputs, labels):\n    return 0.5\n\nx = 1\n")
    Path("my_scores_2.py").write_text("1 / 0\n")
    assert load_metric("my_scores_1:half")(X, Y) == 0.5
    for name, says in (
        ("my_scores_1", "write it like module:function"),
        ("my_scores_1:other", "my_scores_1 has no other"),
        ("my_scores_1:x", "x is not a function"),
        ("my_scores_2:half", "ZeroDivisionError"),
        ("no_such_module_1:half", "ModuleNotFoundError"),
    ):
        with pytest.raises(OptionError, match=says):
            load_metric(name)


def test_the_command_judges_by_a_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    Path("my_scores_3.py").write_text(
        "def worse(outputs, labels):\n    return -float(abs(outputs).sum())\n"
    )
    words = ["recalibrate", str(DIGITS), "x.npy", "--labels", "y.npy", "--allow-mismatch"]
    words += ["--metric", "my_scores_3:worse", "--max-drop", "1e9", "--report", "r.json"]
    assert main([*words, "--json"]) in {Exit.OK, Exit.DO_NOT_DEPLOY}
    capsys.readouterr()
    found = json.loads(Path("r.json").read_text())["metric"]
    (scores,) = ort.InferenceSession(str(DIGITS)).run(None, {"image": X})
    assert found["before"] == pytest.approx(-float(np.abs(scores).sum()), rel=1e-5)


@pytest.mark.parametrize(
    "words", [("--metric", "a:b"), ("--max-drop", "0.1"), ("--classes", "names.txt")]
)
@pytest.mark.parametrize("way", [(), ("--server", "http://127.0.0.1:8000")])
def test_options_of_the_command_about_labels_need_labels(
    desk: Desk, words: tuple[str, str], way: tuple[str, ...]
) -> None:
    code, _, err = desk.run("recalibrate", desk.model, desk.data, *words, *way)
    assert (code, "pass --labels" in err) == (Exit.USAGE, True)
    assert desk.server.transport.requests == []
