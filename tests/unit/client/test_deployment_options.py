"""`opset` and `target`, from the callers' side to the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest

from bn_ops.onnx_files.deployment import TARGETS as LIBRARY_TARGETS
from bnrecal_client import OptionError
from bnrecal_client._http import requests
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.options import TARGETS, Options
from service.recalibrations.schemas import TargetName
from tests.support.client_server import MODEL, ClientServer
from tests.support.played_clients import Calls, stream
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]

DIGITS = str(Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx")


def test_client_server_and_library_know_the_same_targets() -> None:
    assert TARGETS == tuple(LIBRARY_TARGETS) == get_args(TargetName)


def test_they_are_sent_only_where_they_are_set() -> None:
    """A server that is older than these options rejects them."""
    plain = requests.create("m", Options(), key="k").body
    asked = requests.create("m", Options(opset=13, target="rknn"), key="k").body
    assert isinstance(plain, bytes)
    assert isinstance(asked, bytes)
    assert {"opset", "target"}.isdisjoint(json.loads(plain))
    assert json.loads(asked).items() >= {"opset": 13, "target": "rknn"}.items()


def test_a_resumed_recalibration_must_have_the_same_values() -> None:
    options = Options(opset=13, target="rknn")
    stored = {"method": "exact", "estimator": {"name": "auto"}, "layers": None}
    assert options.differences(stored) == ["opset", "target"]
    assert options.differences(stored | {"opset": 13, "target": "rknn"}) == []
    assert Options().differences(stored | {"opset": None, "target": None}) == []


def test_wrong_values_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(OptionError, match="target is 'tflite'; expected one of onnxruntime"):
        Options(target="tflite")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="opset takes a version"):
        Options(opset=0)


def test_clients_send_them(client: Calls, server: ClientServer) -> None:
    client.recalibrate(MODEL, stream(), progress=False, opset=15, target="onnxruntime")
    (sent,) = server.recalibrations
    assert (sent["options"]["opset"], sent["options"]["target"]) == (15, "onnxruntime")


def test_command_sends_them(desk: Desk) -> None:
    code, _, err = desk.recalibrate("--opset", "15", "--target", "tensorrt")
    assert code == 0, err
    (opened,) = desk.server.recalibrations
    assert (opened["options"]["opset"], opened["options"]["target"]) == (15, "tensorrt")


def test_command_has_no_providers_for_a_server(desk: Desk) -> None:
    code, _, err = desk.recalibrate("--providers", "CPUExecutionProvider")
    assert code != 0
    assert "--providers applies to this process" in err


def test_command_writes_the_opset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(0.5, 0.5, (20, 1, 28, 28)).astype(np.float32)
    np.save("x.npy", x)
    words = ["recalibrate", DIGITS, "x.npy", "--force", "-o", "out.onnx", "--unfolded", "u.onnx"]
    words += ["--opset", "13", "--target", "rknn", "--providers", "CPUExecutionProvider"]
    assert main(words) in {Exit.OK, Exit.DO_NOT_DEPLOY}
    for name in ("out.onnx", "u.onnx"):
        assert onnx.load(name).opset_import[0].version == 13
    capsys.readouterr()
    assert main([*words, "--opset", "5"]) == Exit.USAGE
    assert "takes opsets 12 to 19" in capsys.readouterr().err
