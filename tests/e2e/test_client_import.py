"""Clients and the command import data from a real S3 server through a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bnrecal_client import AccessError, AsyncClient, BatchError, Client, ImportFailed, Result
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.result import encode_statistics
from service.storage.blobs.object_client import ObjectClient
from tests.support.s3 import ObjectServer
from tests.support.server_process import ServerProcess
from tests.support.service_http import npy

pytestmark = pytest.mark.xdist_group("s3")

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"
OBJECTS = 6


def digits(index: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(index)
    return rng.normal(0.3, 0.4, (5 + index, 1, 28, 28)).astype(np.float32)


@pytest.fixture
def objects(s3: ObjectServer) -> ObjectClient:
    found = ObjectClient(f"s3://{s3.bucket()}/data")
    for index in range(OBJECTS):
        found.put(f"{index:03}.npy", npy(digits(index)))
    return found


@pytest.fixture
def server(tmp_path: Path, objects: ObjectClient) -> Iterator[ServerProcess]:
    settings = {"import_prefixes": objects.url}
    with ServerProcess(tmp_path / "data", settings=settings) as running:
        yield running


def pattern(objects: ObjectClient) -> str:
    return f"{objects.url}/{{000..{OBJECTS - 1:03}}}.npy"


class Cutting(httpx.HTTPTransport):
    """Loses the connection after the second line of the first import."""

    def __init__(self) -> None:
        super().__init__()
        self.imports = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if not request.url.path.endswith(":import"):
            return response
        self.imports += 1
        if self.imports == 1:
            response.stream = _Cut(response.stream)
        return response


class _Cut(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        lines = 0
        for part in self._stream:
            yield part
            lines += part.count(b"\n")
            if lines >= 2:
                raise httpx.ReadError("the connection was lost")

    def close(self) -> None:
        self._stream.close()


def same(left: Result, right: Result) -> None:
    assert left.model == right.model
    assert encode_statistics(left.statistics) == encode_statistics(right.statistics)


async def by_async_client(url: str, names: list[str]) -> Result:
    async with AsyncClient(url) as client:
        return await client.recalibrate(MODEL, names, estimator="replace", progress=False)


def test_import_equals_an_upload_by_every_path(
    server: ServerProcess, objects: ObjectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = pattern(objects)
    with Client(server.url) as client:
        sent = client.recalibrate(
            MODEL, [digits(index) for index in range(OBJECTS)], estimator="replace", progress=False
        )
        same(client.recalibrate(MODEL, url, estimator="replace", progress=False), sent)
    names = [f"{objects.url}/{index:03}.npy" for index in range(OBJECTS)]
    same(asyncio.run(by_async_client(server.url, names)), sent)
    cutting = Cutting()
    with Client(server.url, transport=cutting) as client:
        same(client.recalibrate(MODEL, url, estimator="replace", progress=False), sent)
    assert cutting.imports == 2
    monkeypatch.chdir(tmp_path)
    words = ["recalibrate", str(MODEL), url, "--server", server.url, "--estimator", "replace"]
    assert main([*words, "--report", "out.json", "-o", "out.onnx", "--force"]) in {
        Exit.OK,
        Exit.DO_NOT_DEPLOY,
    }
    assert Path("out.onnx").read_bytes() == sent.model
    assert url in json.loads(Path("out.json").read_text())["origin"]["command"]


def test_a_broken_object_can_be_repaired(
    server: ServerProcess, objects: ObjectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    objects.put("002.npy", b"not a batch")
    with Client(server.url) as client:
        with pytest.raises(ImportFailed, match=r"1 of 6 objects .*002\.npy") as caught:
            client.recalibrate(MODEL, pattern(objects), estimator="replace", progress=False)
        (broken,) = caught.value.objects
        assert isinstance(broken.error, BatchError)
        name = caught.value.recalibration_id
        objects.put("002.npy", npy(digits(2)))
        result = client.recalibrate(
            MODEL, pattern(objects), estimator="replace", progress=False, resume=name
        )
    assert result.report["stream"]["samples"] == sum(5 + n for n in range(OBJECTS))
    objects.put("003.npy", b"not a batch")
    words = ["recalibrate", str(MODEL), pattern(objects), "--server", server.url, "--force"]
    assert main(words) == Exit.INPUT
    assert "003.npy" in capsys.readouterr().err


def test_other_prefixes_are_denied(server: ServerProcess, objects: ObjectClient) -> None:
    bucket = objects.url.rpartition("/")[0]
    with Client(server.url) as client, pytest.raises(AccessError):
        client.recalibrate(MODEL, f"{bucket}/other/x.npy", progress=False)
