"""The report has the same content by the library, the server, the client and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bn_ops
from bn_ops.diagnostics.html import render_html
from bn_ops.diagnostics.report import SkippedSample
from bnrecal_client import Client
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from tests.support.reports import words
from tests.support.server_process import ServerProcess

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"
DATA = np.random.default_rng(0).normal(0.3, 0.4, (40, 1, 28, 28)).astype(np.float32)
DATA[5, 0, 3, 3] = np.nan
SKIPPED = SkippedSample(index=5, name="digits.npy, sample 5", reason="NaN or Inf")


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON form without what differs between two runs on the same input."""
    assert set(report["timings"]) == {"recalibrate", "fold and verify"}
    origin = {**report["origin"], "created": None, "command": None}
    return {**report, "timings": None, "origin": origin}


def without_time(page: str) -> str:
    """Return the text of a page without when and how long."""
    text = words(page)
    text = re.sub(r"\d+ [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC", "WHEN", text)
    return re.sub(r"\d+\.\d s", "SECONDS", text)


def by_command(*more: str) -> tuple[dict[str, Any], str]:
    options = ["--skip-bad", "--quiet", "--report", "run.json", "--report", "run.html"]
    given = ["recalibrate", "mnist.onnx", "digits.npy", *options, "--batch-size", "13"]
    assert main([*given, *more, "-o", "out.onnx", "--force"]) == Exit.OK
    return json.loads(Path("run.json").read_text()), Path("run.html").read_text()


def test_report_is_the_same_by_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("digits.npy", DATA)
    Path("mnist.onnx").write_bytes(MODEL.read_bytes())
    local, local_page = by_command()
    with ServerProcess(tmp_path / "data") as server:
        remote, remote_page = by_command("--server", server.url)
        with Client(server.url) as client:
            result = client.recalibrate(
                "mnist.onnx", [DATA[:20], DATA[20:]], progress=False, on_bad_sample="skip"
            )
    good = np.delete(DATA, 5, axis=0)
    # The batches of the command, of which a bad sample was left out.
    batches = [good[:12], *np.split(good[12:], [13, 26])]
    report = bn_ops.adapt("mnist.onnx", batches).report.described(
        data_name="digits.npy",
        command="bnrecal recalibrate mnist.onnx digits.npy --skip-bad",
        skipped_samples=(SKIPPED,),
    )
    library = json.loads(json.dumps(report.to_json()))
    assert comparable(local) == comparable(library)
    assert comparable(remote) == comparable(library)
    assert without_time(local_page) == without_time(render_html(report))
    assert without_time(remote_page) == without_time(render_html(report))
    assert "digits.npy, sample 5 5 NaN or Inf" in words(remote_page)
    by_client = result.report
    assert by_client["stream"]["sha256"] == library["stream"]["sha256"]
    assert by_client["origin"]["model_name"] == "mnist.onnx"
    assert "1 sample could not be used." in words(result.report_html)
