"""bn_ops and the client agree: names, defaults, strings, results and errors."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import bn_ops
import bn_ops.errors
from bn_ops.core.estimators.registry import _BY_NAME
from bnrecal_client import Client, Report, Result
from bnrecal_client._encoding.batches import _LABEL_NAMES
from bnrecal_client.cli.in_process import _named
from bnrecal_client.errors import CODES
from bnrecal_client.options import _ESTIMATORS, EstimatorForm, Method, Options, PreprocessForm
from bnrecal_client.result import encode_statistics

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"


@pytest.fixture(scope="module")
def artifact() -> bn_ops.Artifact:
    rng = np.random.default_rng(0)
    batches = [rng.normal(0.1, 0.4, (16, 1, 28, 28)).astype(np.float32) for _ in range(2)]
    return bn_ops.adapt(DIGITS, batches, estimator="shrink", allow_mismatch=True)


# Only one side has a use for them.
ONLY_CLIENT = {"preprocess", "resume", "unfolded", "connections", "timeout", "poll", "on_verdict"}
ONLY_CLIENT |= {"on_bad_sample", "details", "name", "tags"}
ONLY_LIBRARY = {"engine", "budget", "threads", "variance", "adopt_untracked"}
ONLY_LIBRARY |= {"shared_passes", "shared_tolerance", "example_inputs", "providers"}
ONLY_LIBRARY |= {"on_layer"}


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def test_arguments_have_the_same_names_and_defaults() -> None:
    here, there = parameters(Client.recalibrate), parameters(bn_ops.adapt)
    del here["self"]
    assert here.keys() - ONLY_CLIENT == there.keys() - ONLY_LIBRARY
    for name in here.keys() & there.keys():
        assert here[name].default == there[name].default, name


def test_results_have_the_same_members(artifact: bn_ops.Artifact) -> None:
    shared = {"model", "unfolded", "statistics", "report", "report_html", "verdict"}
    shared |= {"save", "save_unfolded", "save_report", "save_statistics", "_repr_html_"}
    for name in shared:
        assert hasattr(artifact, name), name
        assert name in dir(Result), name
    for name in ("save", "save_unfolded", "save_report", "save_statistics"):
        here, there = parameters(getattr(Result, name)), parameters(getattr(bn_ops.Artifact, name))
        assert {n: p.default for n, p in here.items()} == {n: p.default for n, p in there.items()}


def test_saved_files_are_equal(artifact: bn_ops.Artifact, tmp_path: Path) -> None:
    result = Result(
        recalibration_id=None,
        report=artifact.report.to_json(),  # type: ignore[arg-type]
        report_html=artifact.report_html,
        statistics=_named(artifact.statistics),
        model=artifact.model.SerializeToString(deterministic=True),
        unfolded=None,
    )
    for name in ("r.json", "r.html"):
        artifact.save_report(tmp_path / f"a-{name}")
        result.save_report(tmp_path / f"b-{name}")
        assert (tmp_path / f"a-{name}").read_bytes() == (tmp_path / f"b-{name}").read_bytes()
    artifact.save_statistics(tmp_path / "s.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == encode_statistics(result.statistics)
    assert result.verdict is not None
    assert artifact.verdict is not None
    assert (result.verdict.code, result.verdict.sentence) == (
        str(artifact.verdict.code),
        artifact.verdict.sentence,
    )


def test_html_of_results_is_short_and_folded(artifact: bn_ops.Artifact) -> None:
    shown = artifact._repr_html_()
    assert shown.startswith("<p><code>Artifact(")
    assert "<details><summary>Report</summary><iframe sandbox srcdoc=" in shown
    assert len(repr(artifact)) < 200


def test_typed_report_has_the_members_of_the_library(artifact: bn_ops.Artifact) -> None:
    form = artifact.report.to_json()
    assert set(form) <= set(Report.__annotations__)
    for key, typed in (
        ("stream", "StreamForm"),
        ("parity", "ParityForm"),
        ("prediction_shift", "PredictionShiftForm"),
        ("verdict", "VerdictForm"),
    ):
        from bnrecal_client import report

        found = form[key]
        assert isinstance(found, dict)
        assert set(found) == set(getattr(report, typed).__annotations__), key
    layers = form["layers"]
    assert isinstance(layers, list)
    from bnrecal_client.report import DriftForm, LayerForm

    assert isinstance(layers[0], dict)
    assert set(layers[0]) == set(LayerForm.__annotations__)
    assert isinstance(layers[0]["drift"], dict)
    assert set(layers[0]["drift"]) == set(DriftForm.__annotations__)


def test_forms_have_the_members_of_the_library() -> None:
    assert set(_ESTIMATORS) == set(_BY_NAME)
    members = {name for kind in _BY_NAME.values() for name in inspect.signature(kind).parameters}
    assert set(EstimatorForm.__annotations__) == {"name", *members}
    assert set(PreprocessForm.__annotations__) == set(bn_ops.Preprocess().to_json())
    assert get_args(Method) == ("exact", "batch")


@pytest.mark.parametrize(
    "text",
    ["auto", "auto:varied", "replace", "shrink", "prior:64", "prior:64:mixture", "momentum:0.1"],
)
def test_estimator_strings_are_accepted_by_both(text: str) -> None:
    assert bn_ops.estimator_from_string(text).to_json()["name"] == text.partition(":")[0]
    assert Options.of(method="exact", estimator=text, layers=None).estimator == text


def test_labels_are_recognized_by_the_same_names() -> None:
    from bn_ops.core.batches import LABEL_NAMES

    assert LABEL_NAMES == _LABEL_NAMES


def test_every_error_of_the_library_has_a_class_in_the_client() -> None:
    codes = {
        kind.code
        for kind in vars(bn_ops.errors).values()
        if isinstance(kind, type) and issubclass(kind, bn_ops.BnOpsError)
    }
    assert codes <= CODES.keys()
