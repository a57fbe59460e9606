"""Clients of the Open Inference Protocol, as they were published, against the real server."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.support import kserve_client
from tests.support.service_http import safetensors
from tests.support.service_process import Server, images, network, running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/openinference.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("oip") / "data", worker_threads=1) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    found = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield found
    found.close()


def tensor(values: np.ndarray[Any, Any], *, binary: bool = True) -> triton.InferInput:
    found = triton.InferInput("x", list(values.shape), "FP32")
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def test_tritonclient_asks_what_there_is(
    server: Server, client: triton.InferenceServerClient
) -> None:
    name = server.api.open(network())
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, "1")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(name)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert client.get_model_config(name)["input"][0]["data_type"] == "TYPE_FP32"


def test_statistics_of_inferences_equal_those_of_batches_bit_for_bit(
    server: Server, client: triton.InferenceServerClient
) -> None:
    put, fed = server.api.open(network()), server.api.open(network())
    for index in range(4):
        values = images(index, samples=3)
        assert server.api.put(put, index, safetensors(x=values)).status_code == 201
        # Half of them as binary data, half as JSON.
        result = client.infer(fed, [tensor(values, binary=index % 2 == 0)], request_id=str(index))
        assert result.as_numpy("batch_index").tolist() == [index]
        assert result.as_numpy("samples").tolist() == [3]
        assert result.as_numpy("new").tolist() == [True]
    for name in (put, fed):
        assert server.api.start(name, 4).status_code == 202
        assert server.api.wait(name, seconds=60)["state"] == "succeeded"
    statistics = [server.api.get(name, "/statistics").content for name in (put, fed)]
    assert statistics[0] == statistics[1]
    assert server.api.get(put, "/model").content == server.api.get(fed, "/model").content


def test_tritonclient_is_told_what_is_wrong(
    server: Server, client: triton.InferenceServerClient
) -> None:
    name = server.api.open(network())
    values = images(0, samples=1)
    values[0, 0, 0, 0] = np.inf
    with pytest.raises(InferenceServerException, match="input 'x' holds NaN or Inf"):
        client.infer(name, [tensor(values)])
    with pytest.raises(InferenceServerException, match="there is no recalibration"):
        client.infer("none", [tensor(images(0))])
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=True)]
    assert client.infer(name, [tensor(images(0))], outputs=wanted).as_numpy("new") is not None


def test_kserves_client_feeds_a_recalibration(server: Server) -> None:
    inference_client, types = kserve_client.load()
    name = server.api.open(network())

    async def talk() -> list[Any]:
        config = inference_client.RESTConfig(protocol="v2")
        async with inference_client.InferenceRESTClient(config) as client:
            assert await client.is_server_live(server.url)
            assert await client.is_server_ready(server.url)
            assert await client.is_model_ready(server.url, name)
            assert not await client.is_model_ready(server.url, "none")
            found = []
            for binary in (False, True):
                one = types.InferInput("x", [8, 1, 8, 8], "FP32")
                one.set_data_from_numpy(images(0), binary_data=binary)
                request = types.InferRequest(model_name=name, infer_inputs=[one])
                found.append(await client.infer(server.url, request, model_name=name))
            return found

    answers = asyncio.run(talk())
    assert [one.outputs[0].data for one in answers] == [[0], [1]]
    items = server.api.get(name, "/batches").json()["items"]
    assert items[0]["sha256"] == items[1]["sha256"]


def test_the_mirroring_example_of_the_page_runs(server: Server, tmp_path: Path) -> None:
    found = re.search(r"<!-- executed: mirror -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    (tmp_path / "model.onnx").write_bytes(network())
    np.save(tmp_path / "traffic.npy", images(5, samples=40))
    code = found.group(1).replace("http://127.0.0.1:8000", server.url)
    code = code.replace('"127.0.0.1:8000"', f'"{server.url.removeprefix("http://")}"')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "recalibrated.onnx").stat().st_size > 0
