"""Converted and folded files, loaded by other runtimes and compared with onnxruntime."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import ncnn
import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray

import bn_ops
from bn_ops.onnx_files.traversal import standard_opset
from examples.digits.data import load_sklearn_digits
from examples.digits.demo import MODEL as DIGITS
from tests.support.deployment_networks import AFTER, CHANNELS, SIDE, network
from tests.support.onnx_run import run_onnx

pytestmark = pytest.mark.xdist_group("deployment exports")

X = np.random.default_rng(0).normal(size=(32, CHANNELS, SIDE, SIDE)).astype(np.float32)
EXPORTED = 20
# Both runtimes compute in float32, with other orders of summation.
TOLERANCE = 1e-5


@cache
def exported(name: str) -> bn_ops.Artifact:
    """Return a module's artifact in the opset of the export, without a conversion."""
    return adapted(network(name), EXPORTED)


def adapted(model: torch.nn.Module | onnx.ModelProto, opset: int) -> bn_ops.Artifact:
    return bn_ops.adapt(
        model,
        [torch.from_numpy(X)] if isinstance(model, torch.nn.Module) else [X],
        estimator="replace",
        allow_mismatch=True,
        opset=opset,
        target="openvino",
    )


def folded(name: str, opset: int) -> onnx.ModelProto:
    """Return a folded model; other opsets are conversions of one export, which is slow."""
    if opset == EXPORTED:
        return exported(name).model
    return adapted(exported(name).unfolded, opset).model


@cache
def images() -> NDArray[np.float32]:
    return load_sklearn_digits().images[:64]


@cache
def digits(opset: int) -> onnx.ModelProto:
    artifact = bn_ops.adapt(DIGITS, [images()], allow_mismatch=True, opset=opset)
    assert standard_opset(artifact.model) == opset
    return artifact.model


def by_openvino(
    model: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    core = openvino.Core()
    loaded = core.read_model(model.SerializeToString())
    compiled = core.compile_model(loaded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(feeds)[0], dtype=np.float32)


def assert_same(found: NDArray[np.float32], wanted: NDArray[np.generic]) -> None:
    expected = wanted.astype(np.float32)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize("name", AFTER)
def test_openvino_computes_the_same(name: str, opset: int) -> None:
    model = folded(name, opset)
    assert_same(by_openvino(model, {"x": X[:3]}), run_onnx(model, {"x": X[:3]})[0])


@pytest.mark.parametrize("opset", [11, 17, 20])
def test_openvino_runs_the_digits_network(opset: int) -> None:
    model = digits(opset)
    feeds = {"image": images()[:8]}
    assert_same(by_openvino(model, feeds), run_onnx(model, feeds)[0])


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_ncnn_runs_the_digits_network(opset: int, tmp_path: Path) -> None:
    model = digits(opset)
    onnx.save(model, tmp_path / "m.onnx")
    subprocess.run(
        [Path(sys.executable).with_name("pnnx"), "m.onnx", "inputshape=[1,1,28,28]", "fp16=0"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    assert net.load_param(str(tmp_path / "m.ncnn.param")) == 0
    assert net.load_model(str(tmp_path / "m.ncnn.bin")) == 0
    for image in images()[:4]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        code, found = extractor.extract("out0")
        assert code == 0
        assert_same(np.array(found)[None], run_onnx(model, {"image": image[None]})[0])
