"""Published clients of the Open Inference Protocol against a real server."""

from __future__ import annotations

import asyncio
import base64
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
from tests.support.picture import encoded, picture
from tests.support.service_http import safetensors
from tests.support.service_oip import framed, images_ahead, infer_binary
from tests.support.service_process import Server, images, network, running

GRAY = {"resize": 8, "crop": 8, "color": "gray"}
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


def test_tritonclient_reads_metadata(server: Server, client: triton.InferenceServerClient) -> None:
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


def test_inference_and_batches_give_equal_statistics(
    server: Server, client: triton.InferenceServerClient
) -> None:
    put, fed = server.api.open(network()), server.api.open(network())
    for index in range(4):
        values = images(index, samples=3)
        assert server.api.put(put, index, safetensors(x=values)).status_code == 201
        # Half of them are sent as binary data, half as JSON.
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


def of_images(found: Any, sent: list[bytes], *, binary: bool) -> Any:
    """Return an image input for either client; JSON needs base64."""
    content = sent if binary else [base64.b64encode(one) for one in sent]
    found.set_data_from_numpy(np.array(content, dtype=np.object_), binary_data=binary)
    return found


def test_images_of_both_clients_give_equal_batches(
    server: Server, client: triton.InferenceServerClient
) -> None:
    """The tests of the service compare the results of such batches with archives."""
    fed, told, plain = (server.api.open(network(), preprocess=GRAY) for _ in range(3))
    inference_client, types = kserve_client.load()
    metadata = client.get_model_metadata(fed)["inputs"][0]
    assert (metadata["datatype"], metadata["shape"]) == ("BYTES", [-1])
    assert client.get_model_config(fed)["input"][0]["data_type"] == "TYPE_STRING"

    async def infer(sent: list[bytes], *, binary: bool) -> list[int]:
        config = inference_client.RESTConfig(protocol="v2")
        async with inference_client.InferenceRESTClient(config) as kserve:
            one = of_images(types.InferInput("x", [len(sent)], "BYTES"), sent, binary=binary)
            request = types.InferRequest(model_name=told, infer_inputs=[one])
            answer = await kserve.infer(server.url, request, model_name=told)
            return [output.data[0] for output in answer.outputs[:2]]

    for index in range(2):
        kinds = ("PNG", "JPEG", "WEBP", "PNG")[: 3 + index]
        sent = [encoded(picture(30, 20 + n, n), kind) for n, kind in enumerate(kinds)]
        # One request is binary, one JSON.
        one = triton.InferInput(metadata["name"], [len(sent)], "BYTES")
        result = client.infer(fed, [of_images(one, sent, binary=index == 0)])
        assert result.as_numpy("samples").tolist() == [len(sent)]
        assert asyncio.run(infer(sent, binary=index == 1)) == [index, len(sent)]
        head = {"inputs": [images_ahead("x", *sent)]}
        assert infer_binary(server.api, plain, head, framed(*sent)).status_code == 200
    listed = [server.api.get(one, "/batches").json()["items"] for one in (fed, told, plain)]
    assert listed[0] == listed[1] == listed[2]
    assert len(listed[0]) == 2


def test_tritonclient_gets_image_errors(
    server: Server, client: triton.InferenceServerClient
) -> None:
    sent = [encoded(picture()), b"no image"]
    one = of_images(triton.InferInput("x", [2], "BYTES"), sent, binary=True)
    with pytest.raises(InferenceServerException, match="open one with preprocess"):
        client.infer(server.api.open(network()), [one])
    name = server.api.open(network(), preprocess=GRAY)
    with pytest.raises(InferenceServerException, match=r"'1' cannot .*unknown"):
        client.infer(name, [one])
    one.set_data_from_numpy(np.array(["AAAA", "no text!"], dtype=np.object_), binary_data=False)
    with pytest.raises(InferenceServerException, match="index 1 that is not base64"):
        client.infer(name, [one])


def test_tritonclient_gets_errors(server: Server, client: triton.InferenceServerClient) -> None:
    name = server.api.open(network())
    values = images(0, samples=1)
    values[0, 0, 0, 0] = np.inf
    with pytest.raises(InferenceServerException, match="input 'x' holds NaN or Inf"):
        client.infer(name, [tensor(values)])
    with pytest.raises(InferenceServerException, match="there is no recalibration"):
        client.infer("none", [tensor(images(0))])
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=True)]
    assert client.infer(name, [tensor(images(0))], outputs=wanted).as_numpy("new") is not None


def test_kserve_client(server: Server) -> None:
    inference_client, types = kserve_client.load()
    name = server.api.open(network())

    async def requests() -> list[Any]:
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

    answers = asyncio.run(requests())
    assert [one.outputs[0].data for one in answers] == [[0], [1]]
    items = server.api.get(name, "/batches").json()["items"]
    assert items[0]["sha256"] == items[1]["sha256"]


def run_example(server: Server, name: str, folder: Path) -> str:
    """Run a program of the page against this server and return its output."""
    found = re.search(rf"<!-- executed: {name} -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    (folder / "model.onnx").write_bytes(network())
    code = found.group(1).replace("http://127.0.0.1:8000", server.url)
    code = code.replace('"127.0.0.1:8000"', f'"{server.url.removeprefix("http://")}"')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mirroring_example(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "traffic.npy", images(5, samples=40))
    run_example(server, "mirror", tmp_path)
    assert (tmp_path / "recalibrated.onnx").stat().st_size > 0


def test_image_example(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.png").write_bytes(encoded(picture(30, 20, number)))
    assert run_example(server, "images", tmp_path) == "[3]\n"
