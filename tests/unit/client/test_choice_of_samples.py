"""`max_samples` and `seed`, from the callers' side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bnrecal_client._http import requests
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.options import Options
from tests.support.client_server import MODEL, ClientServer
from tests.support.played_clients import Calls, stream
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]

DIGITS = str(Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx")


def test_they_are_sent_only_where_they_are_set() -> None:
    plain = requests.create("m", Options(), key="k").body
    asked = requests.create("m", Options(max_samples=9, seed=2), key="k").body
    assert isinstance(plain, bytes)
    assert isinstance(asked, bytes)
    assert {"max_samples", "seed"}.isdisjoint(json.loads(plain))
    assert json.loads(asked).items() >= {"max_samples": 9, "seed": 2}.items()


def test_a_resumed_recalibration_must_have_the_same_values() -> None:
    options = Options(max_samples=9, seed=2)
    stored = {"method": "exact", "estimator": {"name": "auto"}, "layers": None}
    assert options.differences(stored) == ["max_samples", "seed"]
    assert options.differences(stored | {"max_samples": 9, "seed": 2}) == []
    assert Options().differences(stored | {"max_samples": None, "seed": 0}) == []
    assert Options().differences(stored) == []


def test_clients_send_them(client: Calls, server: ClientServer) -> None:
    client.recalibrate(MODEL, stream(), progress=False, max_samples=9, seed=2)
    (sent,) = server.recalibrations
    assert (sent["options"]["max_samples"], sent["options"]["seed"]) == (9, 2)


def test_command_sends_them(desk: Desk) -> None:
    code, _, err = desk.recalibrate("--max-samples", "9", "--seed", "2")
    assert code == 0, err
    (opened,) = desk.server.recalibrations
    assert (opened["options"]["max_samples"], opened["options"]["seed"]) == (9, 2)


def test_command_in_this_process_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(0.3, 0.4, (60, 1, 28, 28)).astype(np.float32)
    np.save("x.npy", x)
    np.save("mixed.npy", x[::-1])
    found = []
    for data, size in (("x.npy", "7"), ("mixed.npy", "32")):
        words = ["recalibrate", DIGITS, data, "--force", "-o", "out.onnx", "--batch-size", size]
        words += ["--max-samples", "40", "--seed", "2", "--report", "out.json"]
        assert main(words) in {Exit.OK, Exit.DO_NOT_DEPLOY}
        report = json.loads(Path("out.json").read_text())
        assert "--max-samples 40 --seed 2" in report["origin"]["command"]
        found.append((Path("out.onnx").read_bytes(), report["stream"]["subsample"]))
    assert found[0] == found[1]
    assert found[0][1]["seen"] == 60
    capsys.readouterr()
    assert main([*words[:-6], "--seed", "2"]) == Exit.USAGE
    assert "max_samples" in capsys.readouterr().err
