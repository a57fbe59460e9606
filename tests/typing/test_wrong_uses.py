"""Wrong arguments of the client are errors in mypy and in pyright, right ones are not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USES = """
from collections.abc import Iterator

import numpy as np

from bnrecal_client import AsyncClient, Client, Report, Result


def batches() -> Iterator[tuple[np.ndarray, list[int]]]:
    yield np.zeros((2, 3), np.float32), [0, 1]


def right(client: Client) -> Result:
    client.submit("m.onnx", batches(), estimator="prior:16", target="rknn").wait(timeout=3.0)
    client.recalibrate(b"", batches(), call=lambda module, batch: module(batch[0]))
    client.jobs(search="camera")[0].result(on_verdict="raise")
    return client.recalibrate("m.onnx", batches(), method="exact", estimator={"name": "shrink"})


async def awaited(client: AsyncClient) -> Report:
    job = await client.submit("m.onnx", batches(), method="batch")
    return (await job.result()).report


def wrong(client: Client) -> None:
    client.recalibrate("m.onnx", batches(), estimatr="shrink")  # error
    client.recalibrate("m.onnx", batches(), method="exakt")  # error
    client.recalibrate("m.onnx", batches(), estimator={"name": "shrink", "sample": 3})  # error
    client.recalibrate("m.onnx", batches(), preprocess={"mean": 0.5, "colour": "bgr"})  # error
    client.recalibrate("m.onnx", batches(), target="tensorflow")  # error
    client.recalibrate("m.onnx", batches(), on_verdict="rise")  # error
    client.recalibrate("m.onnx", batches(), on_bad_sample="drop")  # error
    client.recalibrate("m.onnx", batches(), call=lambda module: module)  # error
    client.recalibrate("m.onnx", 3)  # error
    client.submit("m.onnx", batches(), evaluate="batches")  # error
    client.jobs("camera")  # error
    client.job("rc_1").results()  # error
    client.fetch("rc_1").report["verdikt"]  # error
    client.fetch("rc_1").verdict.code  # error
    Client("http://localhost:8000", timeout="3")  # error


async def forgotten(client: AsyncClient) -> Result:
    return client.recalibrate("m.onnx", batches())  # error
"""

EXPECTED = {
    number for number, line in enumerate(USES.splitlines(), start=1) if line.endswith("# error")
}


def mypy_errors(file: Path) -> set[int]:
    """Return the numbers of the lines that mypy rejects."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary",
         "--disable-error-code=type-arg", f"--cache-dir={file.parent / 'cache'}",
         "--follow-imports=silent", str(file)],
        cwd=ROOT / "clients" / "python", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return {int(found) for found in re.findall(r":(\d+): error:", done.stdout)}


def pyright_errors(file: Path) -> set[int]:
    """Return the numbers of the lines that pyright rejects."""
    config = {"extraPaths": [str(ROOT / "clients" / "python")], "include": [file.name]}
    (file.parent / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}",
         f"--project={file.parent}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


@pytest.mark.parametrize("errors_of", [mypy_errors, pyright_errors])
def test_wrong_uses_are_errors(errors_of: object, tmp_path: Path) -> None:
    file = tmp_path / "uses.py"
    file.write_text(USES)
    assert callable(errors_of)
    assert errors_of(file) == EXPECTED
