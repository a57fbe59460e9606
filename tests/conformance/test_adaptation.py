"""`adapt` as a transaction: recalibrate, fold and verify, or change nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import bn_ops
from bn_ops.errors import BatchNotFiniteError, OptionError
from bn_ops.onnx_files import session as runtime
from bn_ops.onnx_files.session import open_inner, session
from tests.support.networks import images, residual_network
from tests.support.oracle import oracle_statistics, residual, stored_statistics


@pytest.fixture(scope="module")
def artifact() -> bn_ops.Artifact:
    return bn_ops.adapt(residual_network(), [images(10), images(7, seed=2)], estimator="replace")


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(session(model.SerializeToString()).run(None, {"x": x})[0])


def test_thread_limit_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def noted(model: Any, options: Any, **given: Any) -> tuple[Any, Any]:
        opened.append(options.intra_op_num_threads)
        return open_inner(model, options, **given)

    monkeypatch.setattr(runtime, "open_inner", noted)
    bn_ops.adapt(residual_network(), [images(4)], threads=1)
    assert set(opened) == {1}


def test_folded_model_is_equivalent(artifact: bn_ops.Artifact) -> None:
    x = images(9, seed=3, size=20)
    folded, unfolded = run(artifact.model, x), run(artifact.unfolded, x)
    assert np.abs(folded - unfolded).max() <= 1e-5 * np.abs(unfolded).max()
    assert all(node.op_type != "BatchNormalization" for node in artifact.model.graph.node)


def test_unfolded_model_has_exact_statistics(artifact: bn_ops.Artifact) -> None:
    x = np.concatenate([images(10), images(7, seed=2)])
    oracle = oracle_statistics(residual_network(), {"x": x})
    assert residual(stored_statistics(artifact.unfolded), oracle) <= 1e-5


def test_report(artifact: bn_ops.Artifact) -> None:
    report = artifact.report
    assert (report.stream.batches, report.stream.samples) == (2, 17)
    assert report.frozen.unchanged
    assert report.parity is not None
    assert report.parity.passed
    assert report.parity.samples == 4
    assert report.fold is not None
    assert [entry.status for entry in report.fold] == ["folded"] * 6
    assert [entry.name for entry in report.fold] == [entry.name for entry in report.layers]
    assert set(report.timings) == {"recalibrate", "fold and verify"}


def test_report_as_json(artifact: bn_ops.Artifact) -> None:
    form = artifact.report.to_json()
    assert json.loads(json.dumps(form, allow_nan=False)) == form
    assert form["report"] == 2
    assert isinstance(form["frozen"], Mapping)
    assert form["frozen"]["unchanged"] is True


def test_provenance_metadata(artifact: bn_ops.Artifact) -> None:
    labels = {entry.key: entry.value for entry in artifact.model.metadata_props}
    assert labels["bnrecal.samples"] == "17"
    assert labels["bnrecal.source_sha256"] == artifact.report.source_sha256
    assert labels["bnrecal.version"] == bn_ops.__version__


def test_saving_is_atomic(artifact: bn_ops.Artifact, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    artifact.save(target)
    assert onnx.load(target) == artifact.model
    with pytest.raises(OSError, match="missing"):
        artifact.save(tmp_path / "missing" / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_source_overwritten_only_with_force(tmp_path: Path) -> None:
    path, link, other = (tmp_path / name for name in ("model.onnx", "link.onnx", "other.onnx"))
    onnx.save(residual_network(), path)
    link.symlink_to(path)
    before = path.read_bytes()
    artifact = bn_ops.adapt(str(path), [images(6)])
    for target in (path, link):
        for save in (artifact.save, artifact.save_unfolded):
            with pytest.raises(OptionError, match="is the source model and would be overwritten"):
                save(target)
    assert path.read_bytes() == before
    artifact.save(other)
    artifact.save_unfolded(other)
    artifact.save(path, force=True)
    assert onnx.load(path) == artifact.model


def test_progress_phases_in_order() -> None:
    seen: list[str] = []
    bn_ops.adapt(residual_network(), [images(4)], progress=lambda p: seen.append(p.phase))
    assert list(dict.fromkeys(seen)) == ["reading", "measuring", "choosing", "folding", "verifying"]


def test_paths_bytes_and_protos_agree(tmp_path: Path) -> None:
    model = residual_network()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    results = [
        bn_ops.adapt(form, [images(6)], estimator="replace").model.SerializeToString(
            deterministic=True
        )
        for form in (model, model.SerializeToString(), path, str(path))
    ]
    assert len(set(results)) == 1


def test_failure_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(residual_network(), path)
    before = path.read_bytes()
    bad = images(3)
    bad[0] = np.inf
    with pytest.raises(BatchNotFiniteError):
        bn_ops.adapt(path, [images(3), bad])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_module_and_exported_program_agree() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.from_numpy(images(12))
    program = torch.export.export(
        module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    own, theirs = (
        bn_ops.adapt(program, [x.numpy()], estimator="replace"),
        bn_ops.adapt(module, [x], estimator="replace"),
    )
    assert (own.report.engine, theirs.report.engine) == ("onnx", "torch")
    assert own.statistics.keys() == theirs.statistics.keys() == {"1"}
    np.testing.assert_allclose(own.statistics["1"].mean, theirs.statistics["1"].mean, atol=1e-6)
    np.testing.assert_allclose(own.statistics["1"].var, theirs.statistics["1"].var, rtol=1e-5)


def test_custom_call_needs_example_inputs() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.from_numpy(images(8))
    before = {name: value.clone() for name, value in module.state_dict().items()}

    def call(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(model(batch))

    with pytest.raises(OptionError, match="example_inputs="):
        bn_ops.adapt(module, [x], call=call)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])  # the failed export undid the recalibration
    artifact = bn_ops.adapt(module, [x], call=call, example_inputs=x[:2])
    assert artifact.report.parity is not None
    assert artifact.report.parity.passed
