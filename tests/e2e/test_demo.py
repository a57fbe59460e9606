from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from examples.digits.data import load_mnist, load_sklearn_digits, save, split
from examples.digits.outcome import error_percent

ROOT = Path(__file__).parents[2]


def _run_demo(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [
        *(sys.executable, "-m", "examples.digits.demo", "--output", str(output)),
        *arguments,
    ]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.mark.slow
def test_demo_reduces_error_and_writes_model(
    tmp_path: Path,
) -> None:
    done = _run_demo(tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = (float(x) for x in re.findall(r"(?:before|after) +([\d.]+) %", done.stdout))
    assert before - after >= 20

    content = (tmp_path / "mnist_resnet.recalibrated.onnx").read_bytes()
    model = onnx.load_from_string(content)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    _, held_out = split(load_sklearn_digits(), 900)
    assert error_percent(content, held_out) == pytest.approx(after, abs=0.05)  # one printed digit
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    for path in ("mnist_resnet.recalibrated.onnx", "report.html"):
        assert str(tmp_path / path) in done.stdout


@pytest.mark.slow
def test_demo_fails_with_small_gain(tmp_path: Path) -> None:
    # In the domain of the training there is almost nothing to gain.
    own, _ = split(load_mnist(), 1_797, seed=1)
    save(own, tmp_path / "own.npz")
    done = _run_demo(tmp_path, "--digits", str(tmp_path / "own.npz"))
    assert done.returncode == 1
    assert re.search(r"the error fell by only -?\d+\.\d points", done.stderr)


def test_demo_fails_without_server(tmp_path: Path) -> None:
    data = load_sklearn_digits()
    save(data.take(np.arange(1_000)), tmp_path / "few.npz")
    # Port 9 (discard) is normally unused.
    done = _run_demo(
        tmp_path, "--server", "http://127.0.0.1:9", "--digits", str(tmp_path / "few.npz")
    )
    assert done.returncode == 1
    assert "the demo failed: http://127.0.0.1:9 does not respond" in done.stderr
    assert "Traceback" not in done.stderr
