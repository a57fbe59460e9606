"""`bnrecal plan` prints what a recalibration of many samples needs."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from bnrecal_client.cli import main
from tests.support.networks import residual_network


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    onnx.save(residual_network(), path)
    return str(path)


def test_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", model, "--samples", "1e8", "--shape", "3x12x12"]
    assert main([*words, "--memory", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one sample: input 1.73 kB, waiting at the frontier ")
    assert lines[1].startswith("100,000,000 samples: input 173 GB, waiting ")
    assert lines[3].split() == [
        *("nodes", "memory", "each", "files", "each", "messages", "compute", "files", "time"),
    ]
    one, many = (line.split() for line in lines[4:6])
    assert one[0] == "1"
    assert int(many[0]) > 1
    assert "0 B" in lines[5]


def test_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", model, "--samples", "1000", "--shape", "3x12x12", "--json"]
    assert main([*words, "--nodes", "2", "--cores", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    (run,) = found["runs"]
    assert (run["nodes"], run["samples"], run["nodes_in_memory"]) == (2, 1000, 1)
    assert run["waiting_bytes"] == 1000 * found["sample"]["waiting_bytes"]
    assert found["sample"]["levels"] == 5


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--samples", "10"], 2, "pass the shape of one sample"),
        (["--samples", "many", "--shape", "3x4x4"], 2, "many is not a number"),
        (["--samples", "10", "--shape", "3x0x4"], 2, "leaves sizes of its input"),
        (["--samples", "10", "--shape", "large"], 2, "is not a shape such as 3x224x224"),
        (["--samples", "0", "--shape", "3x4x4"], 2, "a run needs at least one sample"),
        (["--samples", "10", "--shape", "3x4x4", "--memory", "0"], 2, "a machine has"),
        (["--shape", "3x4x4"], 2, "--samples"),
    ],
)
def test_wrong_uses(
    model: str, words: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", model, *words]) == code
    assert reason in capsys.readouterr().err


def test_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(tmp_path / "no.onnx"), "--samples", "1"]) == 4
    assert "no.onnx" in capsys.readouterr().err
