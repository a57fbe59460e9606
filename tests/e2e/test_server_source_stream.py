"""A model whose BatchNorm is folded, recalibrated by a server with source batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import bn_ops
from tests.support.service_http import safetensors
from tests.support.service_process import Server, running

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"
INPUT = "image"


def digits(seed: int, samples: int, mean: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 0.4, (samples, 1, 28, 28)).astype(np.float32)


SOURCE = [digits(seed, 24, 0.1) for seed in range(3)]
TARGET = [digits(seed, 16, 0.3) for seed in range(10, 13)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def folded() -> bytes:
    model = bn_ops.fold(onnx.load(MODEL)).model
    return bytes(model.SerializeToString(deterministic=True))


def test_result_matches_the_library(server: Server, folded: bytes) -> None:
    api = server.api
    uploaded = api.upload_model(folded)
    assert uploaded.is_success, uploaded.text
    assert uploaded.json()["needs_source_batches"] is True
    assert "source_batches=" in uploaded.json()["warnings"][0]
    name = api.open(folded, estimator="replace", keep_data=True)
    for index, array in enumerate(TARGET):
        assert api.put(name, index, safetensors(**{INPUT: array})).status_code == 201
    refused = api.start(name, len(TARGET))
    assert (refused.status_code, refused.json()["code"]) == (422, "model-already-folded")
    for index, array in enumerate(SOURCE):
        assert api.put_source(name, index, safetensors(**{INPUT: array})).status_code == 201
    assert api.start(name, len(TARGET), source_batches=len(SOURCE)).status_code == 202
    assert api.wait(name)["state"] == "succeeded", api.get(name).text
    expected = bn_ops.adapt(folded, TARGET, source_batches=SOURCE, estimator="replace")
    assert api.get(name, "/model").content == expected.model.SerializeToString(deterministic=True)
    report = api.get(name, "/report").json()
    assert report["stream"]["samples"] == sum(map(len, TARGET))
    assert len(report["layers"]) == len(expected.report.layers) > 0


def test_other_source_batches_give_another_result(server: Server, folded: bytes) -> None:
    results = []
    for first in (SOURCE[0], SOURCE[1]):
        name = server.api.open(folded)
        server.api.put(name, 0, safetensors(**{INPUT: TARGET[0]}))
        server.api.put_source(name, 0, safetensors(**{INPUT: first}))
        server.api.start(name, 1, source_batches=1)
        assert server.api.wait(name)["state"] == "succeeded"
        results.append(server.api.get(name, "/model").content)
    assert results[0] != results[1]


def test_model_without_insertion_point(server: Server) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    response = server.api.upload_model(model.SerializeToString())
    assert (response.status_code, response.json()["code"]) == (422, "model-without-batchnorm")
