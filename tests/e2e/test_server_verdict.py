"""The verdict and the bytes of a run over HTTP are those of the library in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bn_ops
from tests.support.service_http import npy, safetensors
from tests.support.service_process import Server, running

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"
INPUT = "image"
NPY = "application/x-npy"


def digits(seed: int, samples: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.3, 0.4, (samples, 1, 28, 28)).astype(np.float32)


BATCHES = [digits(seed, size) for seed, size in enumerate((7, 16, 1, 16))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server") / "data") as started:
        yield started


def finished(server: Server, batches: list[NDArray[np.float32]], **options: Any) -> str:
    name = server.api.open(MODEL.read_bytes(), **options)
    for index, array in enumerate(batches):
        assert server.api.put(name, index, safetensors(**{INPUT: array})).status_code == 201
    assert server.api.start(name, len(batches)).status_code == 202
    server.api.wait(name)
    return name


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"estimator": "auto:varied"}, {"estimator": bn_ops.Auto(varied=True)}),
        ({"estimator": "shrink"}, {"estimator": "shrink"}),
    ],
    ids=["default", "varied", "shrink"],
)
def test_verdict_and_bytes_are_those_of_the_library(
    server: Server, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    artifact = bn_ops.adapt(MODEL, BATCHES, **arguments)
    assert artifact.verdict is not None
    name = finished(server, BATCHES, **options)
    found = server.api.get(name).json()
    assert found["verdict"] == artifact.verdict.to_json()
    report = server.api.get(name, "/report").json()
    assert report["verdict"] == found["verdict"]
    content = server.api.get(name, "/model").content
    assert content == artifact.model.SerializeToString(deterministic=True)


def test_a_mismatched_input_fails_early_unless_it_is_allowed(server: Server) -> None:
    wrong = [255 * np.abs(array) for array in BATCHES]
    found = server.api.get(finished(server, wrong)).json()
    assert (found["state"], found["error"]["code"]) == ("failed", "input-mismatch")
    assert found["error"]["cause"] == "scale"
    assert found["error"]["suggestion"]
    assert found["phase"] in {None, "reading"}
    allowed = server.api.get(finished(server, wrong, allow_mismatch=True)).json()
    assert allowed["state"] == "succeeded"
    verdict = bn_ops.adapt(MODEL, wrong, allow_mismatch=True).verdict
    assert verdict is not None
    assert allowed["verdict"] == verdict.to_json()
    assert allowed["verdict"]["code"] == "do-not-deploy"
    assert allowed["verdict"]["reasons"][0]["code"] == "input-mismatch"


def test_a_one_shot_request_has_the_code_and_the_bytes(server: Server) -> None:
    artifact = bn_ops.adapt(MODEL, BATCHES)
    files = [("model", ("m.onnx", MODEL.read_bytes(), "application/x-onnx"))]
    files += [("data", ("x.npy", npy(array), NPY)) for array in BATCHES]
    response = server.http.post("/v1/recalibrate", files=files)
    assert response.status_code == 200, response.text
    assert artifact.verdict is not None
    assert response.headers["X-Bnrecal-Verdict"] == artifact.verdict.code
    assert response.content == artifact.model.SerializeToString(deterministic=True)
