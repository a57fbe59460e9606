"""What a type checker sees of the client. mypy checks the function; pytest checks that it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import pytest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bnrecal_client import (
        AsyncClient,
        AsyncJob,
        BatchError,
        BnrecalError,
        Client,
        Job,
        ModelDescription,
        Problem,
        Recalibration,
        Report,
        Result,
        StoredBatch,
        TensorInfo,
    )

    def synchronous(client: Client, batches: list[NDArray[np.float32]]) -> None:
        result = client.recalibrate("model.onnx", batches, estimator="prior:16", layers=["a*"])
        assert_type(result, Result)
        assert_type(result.model, bytes)
        assert_type(result.unfolded, bytes | None)
        assert_type(result.report, Report)
        assert_type(result.statistics, Mapping[str, NDArray[np.float64]])
        assert_type(result.save("out.onnx"), Path)
        assert_type(client.upload(b""), ModelDescription)
        assert_type(client.upload(b"").inputs, tuple[TensorInfo, ...])
        assert_type(client.models(), tuple[ModelDescription, ...])
        assert_type(client.create("id"), Recalibration)
        assert_type(client.send("rc", 0, {"x": batches[0]}), StoredBatch)
        assert_type(client.received("rc"), tuple[StoredBatch, ...])
        assert_type(client.wait("rc"), Recalibration)
        assert_type(client.job("rc"), Job)
        assert_type(client.submit("model.onnx", batches), Job)
        assert_type(client.submit("model.onnx", batches).result(), Result)
        with Client("http://localhost:8000") as entered:
            assert_type(entered, Client)

    async def asynchronous(client: AsyncClient, batches: list[NDArray[np.float32]]) -> None:
        assert_type(await client.recalibrate("model.onnx", batches), Result)
        assert_type(await client.upload(b""), ModelDescription)
        assert_type(await client.received("rc"), tuple[StoredBatch, ...])
        assert_type(await client.job("rc"), AsyncJob)
        async with AsyncClient("http://localhost:8000") as entered:
            assert_type(entered, AsyncClient)

    def errors(error: BnrecalError, batch: BatchError) -> None:
        assert_type(error.code, str)
        assert_type(error.problem, Problem | None)
        assert_type(error.recalibration_id, str | None)
        assert_type(batch.batch, int | None)

    def refused(client: Client) -> None:
        # warn_unused_ignores makes each of these a test: without the error, mypy complains.
        client.recalibrate("model.onnx", 3)  # type: ignore[arg-type]
        client.recalibrate("model.onnx", [], estimator=16)  # type: ignore[arg-type]
        client.send("rc", "0", {})  # type: ignore[arg-type]
        client.recalibrate("model.onnx", [], method="exakt")  # type: ignore[arg-type]
        client.recalibrate("model.onnx", [], estimatr="shrink")  # type: ignore[call-arg]
        client.recalibrate("model.onnx", [], on_verdict="rase")  # type: ignore[arg-type]
        client.recalibrate("model.onnx", [], estimator={"name": "shrnk"})  # type: ignore[arg-type]
        client.recalibrate("model.onnx", [], preprocess={"resiz": 256})  # type: ignore[arg-type]
        client.submit("model.onnx", [], method="exakt")  # type: ignore[arg-type]
        client.create("id", layers="*", method="exakt")  # type: ignore[arg-type]

    def report(result: Result) -> None:
        assert_type(result.report["layers"][0]["name"], str)
        assert_type(result.report["stream"]["samples"], int)
        _ = result.report["paritty"]  # type: ignore[typeddict-item]


ROOT = Path(__file__).parents[2]


def mypy(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=280,
    )


@pytest.mark.slow
def test_the_annotated_types_are_correct() -> None:
    done = mypy(str(Path(__file__)))
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_type_check_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from typing import assert_type\nfrom bnrecal_client import Client\n"
        "assert_type(Client('http://x').models(), list[int])\n"
    )
    done = mypy(str(wrong))
    assert done.returncode == 1
    assert "assert-type" in done.stdout
