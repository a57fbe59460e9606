"""`.pt2` uploads: disabled by default, stored as ONNX, and never without the sandbox."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import onnx
import pytest
import torch

from bn_ops.errors import ModelInvalidError, ModelUnsupportedError
from service.errors import RefusedError
from service.settings import Settings
from service.workers.child.convert import convert
from service.workers.messages import Limits, WorkerTask
from service.workers.process_pool import ProcessExecutor
from tests.support.pt2_files import Small, exchanged, runs_code, saved
from tests.support.service_fakes import ARCHIVE, GOOD_MODEL, UNSAFE, FakeExecutor
from tests.support.service_http import StartServer, scratch_files

_PT2 = ARCHIVE + GOOD_MODEL


def spec(model: Path, output: Path, *, pt2: bool) -> WorkerTask:
    limits = Limits(
        memory_bytes=1,
        file_bytes=1,
        cpu_seconds=1,
        frontier_memory_bytes=1,
        frontier_spill_bytes=1,
        threads=1,
    )
    options = {"pt2": pt2, "model_limit_bytes": 1 << 20}
    return WorkerTask(
        kind="convert",
        parent=1,
        output=str(output),
        limits=limits,
        model=str(model),
        options=options,
    )


def test_pt2_is_disabled_by_default(tmp_path: Path) -> None:
    honest = tmp_path / "upload"  # without a suffix, as in staging
    saved(Small(), (torch.randn(2, 3, 8, 8),), honest)
    with pytest.raises(ModelInvalidError, match="pt2"):
        convert(spec(honest, tmp_path, pt2=False), {"landlock": True, "seccomp": True})


def test_pt2_file_is_stored_as_onnx(
    start_server: StartServer, settings: Settings, executor: FakeExecutor
) -> None:
    api = start_server(pt2=True)
    response = api.upload_model(_PT2)
    assert response.status_code == 201
    assert response.json()["id"] == hashlib.sha256(_PT2).hexdigest()
    assert response.json()["bytes"] == len(GOOD_MODEL)
    stored = hashlib.sha256(GOOD_MODEL).hexdigest()
    (file,) = settings.data_dir.glob(f"models/{stored}-*/model.onnx")
    assert file.read_bytes() == GOOD_MODEL
    assert api.upload_model(_PT2).status_code == 200
    assert executor.converting == 1


def test_onnx_files_are_not_converted(start_server: StartServer, executor: FakeExecutor) -> None:
    assert start_server(pt2=True).upload_model().status_code == 201
    assert executor.converting == 0


def test_unsafe_pt2_file_leaves_nothing(start_server: StartServer, settings: Settings) -> None:
    response = start_server(pt2=True).upload_model(UNSAFE)
    assert response.status_code == 422
    assert response.json()["code"] == "model-unsafe"
    assert not list(settings.data_dir.rglob("*.onnx"))
    assert not scratch_files(settings.data_dir)


@pytest.mark.parametrize("missing", ["landlock", "seccomp"])
def test_pt2_requires_full_sandbox(tmp_path: Path, missing: str) -> None:
    status = {"landlock": True, "seccomp": True, missing: False}
    with pytest.raises(ModelUnsupportedError, match=missing):
        convert(spec(tmp_path / "none.pt2", tmp_path, pt2=True), status)


def test_worker_converts_pt2_file(tmp_path: Path) -> None:
    honest, marker, output = tmp_path / "m.pt2", tmp_path / "ran", tmp_path / "out"
    output.mkdir()
    saved(Small(), (torch.randn(2, 3, 8, 8),), honest)
    hostile = exchanged(
        honest, tmp_path / "bad.pt2", {"data/weights/weight_0.pt": runs_code(marker)}
    )
    executor = ProcessExecutor(Settings(worker_threads=1, pt2=True))

    async def work() -> Path:
        status = await executor.sandbox_status()
        if not (status["landlock"] and status["seccomp"]):
            pytest.skip("this kernel has no Landlock or no seccomp")
        with pytest.raises(RefusedError) as refused:
            await executor.convert(hostile, output)
        assert refused.value.refusal == "model-unsafe"
        return await executor.convert(honest, output)

    model = onnx.load(asyncio.run(work()))
    assert [n.name for n in model.graph.node if n.op_type == "BatchNormalization"] == ["bn"]
    assert not marker.exists()
