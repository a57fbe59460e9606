"""One-shot recalibration with curl and a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.service_process import Server, images, network, running
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "data", worker_threads=1) as found:
        yield found


@pytest.fixture
def form(tmp_path: Path) -> list[str]:
    (tmp_path / "m.onnx").write_bytes(network())
    np.save(tmp_path / "x.npy", images(0))
    return ["curl", "-s", "-F", f"model=@{tmp_path}/m.onnx", "-F", f"data=@{tmp_path}/x.npy"]


def test_single_request_for_a_target(server: Server, form: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    options = ["-F", 'options={"opset": 13, "target": "rknn"}']
    url = f"{server.url}/v1/recalibrate"
    subprocess.run([*form, *options, "-f", "-o", output, url], check=True)
    assert onnx.load(output).opset_import[0].version == 13
    options = ["-F", 'options={"opset": 999}']
    done = subprocess.run([*form, *options, url], check=True, capture_output=True)
    assert json.loads(done.stdout)["code"] == "option-invalid"


def test_recalibration_by_single_request(server: Server, form: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    subprocess.run([*form, "-f", "-o", output, f"{server.url}/v1/recalibrate"], check=True)
    name = server.api.open(network())
    server.api.put(
        name, 0, (tmp_path / "x.npy").read_bytes(), {"Content-Type": "application/x-npy"}
    )
    server.api.start(name, 1)
    assert server.api.wait(name)["state"] == "succeeded"
    assert output.read_bytes() == server.api.get(name, "/model").content


def test_disconnect_cancels_the_run(server: Server, form: list[str]) -> None:
    name = _disconnect(server, *form, "-o", "/dev/null", f"{server.url}/v1/recalibrate")
    assert server.api.wait(name)["state"] == "cancelled"


def test_disconnect_with_idempotency_key_keeps_the_run(server: Server, form: list[str]) -> None:
    form = [*form, "-H", "Idempotency-Key: mine", f"{server.url}/v1/recalibrate", "-o"]
    name = _disconnect(server, *form, "/dev/null")
    again = subprocess.run([*form, "-"], capture_output=True, check=True, timeout=60)
    assert server.api.get(name).json()["state"] == "succeeded"
    assert again.stdout == server.api.get(name, "/model").content


def _disconnect(server: Server, *command: str) -> str:
    """Kill curl once its run has begun, and return the recalibration id."""
    client = subprocess.Popen(command)
    try:
        found = until(lambda: _started(server))
    finally:
        client.kill()
        client.wait()
    return found[0]


def _started(server: Server) -> list[str]:
    items = server.http.get("/v1/recalibrations").json()["items"]
    return [str(one["id"]) for one in items if one["state"] in {"queued", "running"}]
