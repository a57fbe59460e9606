"""The transaction as a whole: recalibrated, folded, verified; or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import bn_ops
from bn_ops.errors import BatchNotFiniteError
from bn_ops.runtime import session
from tests.support.networks import images, residual_network
from tests.support.oracle import oracle_statistics, residual, stored_statistics


@pytest.fixture(scope="module")
def artifact() -> bn_ops.Artifact:
    return bn_ops.adapt(residual_network(), [images(10), images(7, seed=2)])


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(session(model.SerializeToString()).run(None, {"x": x})[0])


def test_the_folded_model_computes_what_the_unfolded_one_does(artifact: bn_ops.Artifact) -> None:
    x = images(9, seed=3, size=20)
    folded, unfolded = run(artifact.model, x), run(artifact.unfolded, x)
    assert np.abs(folded - unfolded).max() <= 1e-5 * np.abs(unfolded).max()
    assert all(node.op_type != "BatchNormalization" for node in artifact.model.graph.node)


def test_the_unfolded_model_holds_the_exact_statistics(artifact: bn_ops.Artifact) -> None:
    x = np.concatenate([images(10), images(7, seed=2)])
    oracle = oracle_statistics(residual_network(), {"x": x})
    assert residual(stored_statistics(artifact.unfolded), oracle) <= 1e-5


def test_the_report_says_what_happened(artifact: bn_ops.Artifact) -> None:
    report = artifact.report
    assert (report.stream.batches, report.stream.samples) == (2, 17)
    assert report.frozen.unchanged
    assert report.parity is not None
    assert report.parity.passed
    assert report.parity.samples == 17
    assert report.fold is not None
    assert [entry.status for entry in report.fold] == ["folded"] * 6
    assert [entry.name for entry in report.fold] == [entry.name for entry in report.layers]
    assert set(report.timings) == {"recalibrate", "fold and verify"}


def test_the_report_is_plain_json(artifact: bn_ops.Artifact) -> None:
    form = artifact.report.to_json()
    assert json.loads(json.dumps(form, allow_nan=False)) == form
    assert form["report"] == 1
    assert isinstance(form["frozen"], Mapping)
    assert form["frozen"]["unchanged"] is True


def test_the_file_says_where_it_comes_from(artifact: bn_ops.Artifact) -> None:
    labels = {entry.key: entry.value for entry in artifact.model.metadata_props}
    assert labels["bnrecal.samples"] == "17"
    assert labels["bnrecal.source_sha256"] == artifact.report.source_sha256
    assert labels["bnrecal.version"] == bn_ops.__version__


def test_saving_writes_the_whole_file_or_nothing(artifact: bn_ops.Artifact, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    artifact.save(target)
    assert onnx.load(target) == artifact.model
    with pytest.raises(OSError, match="missing"):
        artifact.save(tmp_path / "missing" / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_phases_are_told_in_order() -> None:
    seen: list[str] = []
    bn_ops.adapt(residual_network(), [images(4)], progress=lambda p: seen.append(p.phase))
    assert list(dict.fromkeys(seen)) == ["reading", "measuring", "folding", "verifying"]


def test_paths_bytes_and_protos_are_the_same_model(tmp_path: Path) -> None:
    model = residual_network()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    results = [
        bn_ops.adapt(form, [images(6)]).model.SerializeToString(deterministic=True)
        for form in (model, model.SerializeToString(), path, str(path))
    ]
    assert len(set(results)) == 1


def test_a_failure_hands_out_nothing_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(residual_network(), path)
    before = path.read_bytes()
    bad = images(3)
    bad[0] = np.inf
    with pytest.raises(BatchNotFiniteError):
        bn_ops.adapt(path, [images(3), bad])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
