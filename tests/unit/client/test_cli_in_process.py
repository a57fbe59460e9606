"""The command in this process: real bn_ops on the digits model, with text output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bn_ops.folding.rules import RULES
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.cli.output import count, file_size, size, summary, summary_lines, table
from bnrecal_client.result import Result
from tests.support.fold_faults import FaultyConv, thousandth_in_one_channel

MODEL = str(Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx")


def test_recalibrate_prints_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(0.5, 0.5, (20, 1, 28, 28)).astype(np.float32))
    words = ["recalibrate", MODEL, "x.npy", "--batch-size", "8", "--layers", "block*"]
    assert main([*words, "--estimator", "replace", "--force"]) in {Exit.OK, Exit.DO_NOT_DEPLOY}
    out, err = capsys.readouterr()
    assert err == ""
    verdict, _, summary_text = out.partition("\n\n")
    assert verdict.startswith(("DEPLOY  ", "CHECK WITH LABELS  ", "DO NOT DEPLOY  "))
    first, *rest = summary_text.splitlines()
    assert first == "recalibrated 8 of 9 layers from 20 samples in 3 batches (exact, replace)"
    assert sum(line.startswith("block") for line in rest) == 5
    assert "folded 9 of 9 layers" in rest
    assert any(line.startswith("folded and unfolded agree to ") for line in rest)
    assert rest[-1].startswith("wrote model  mnist_resnet.recalibrated.onnx (")


def test_allowed_mismatch_gives_the_code_and_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    strokes = np.zeros((40, 1, 28, 28), np.float32)
    strokes[:, :, 8:20, 11:17] = np.random.default_rng(0).integers(0, 256, (40, 1, 12, 6))
    np.save("x.npy", strokes)
    words = ["recalibrate", MODEL, "x.npy"]
    assert main(words) == Exit.INPUT
    message = capsys.readouterr().err
    assert "the values are 0…255" in message
    assert "use the preprocessing 'unit'" in message
    assert main([*words, "--allow-mismatch"]) == Exit.DO_NOT_DEPLOY
    out = capsys.readouterr().out
    assert out.startswith("DO NOT DEPLOY  ")
    assert "correct the preprocessing" in out.splitlines()[0]
    assert "Use the preprocessing 'unit'" in out
    assert not list(tmp_path.glob("*.onnx"))
    assert main([*words, "--allow-mismatch", "--force"]) == Exit.DO_NOT_DEPLOY
    assert list(tmp_path.glob("*.onnx"))


def test_labels_give_error_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(2):
        x = rng.normal(0.5, 0.5, (10, 1, 28, 28)).astype(np.float32)
        np.save(f"x{number}.npy", x)
    np.save("labels.npy", rng.integers(0, 10, 13))
    words = ["recalibrate", MODEL, "x0.npy", "x1.npy", "--batch-size", "8", "--json"]
    assert main([*words, "--labels", "labels.npy", "--report", "r.json"]) == Exit.OK
    found = json.loads(Path("r.json").read_text("utf-8"))["evaluation"]
    assert found["samples"] == 13
    printed = json.loads(capsys.readouterr().out)["evaluation"]
    assert printed == {key: found[key] for key in ("samples", "error_before", "error_after")}

    for labels, text in (
        (np.zeros(21, np.int64), "21 labels, the data only 20 samples"),
        (np.zeros(3), "a label is an integer"),
        (np.full(3, 10), "classes 0 to 10"),
        (np.zeros((), np.int64), "axis"),
    ):
        np.save("labels.npy", labels)
        assert main([*words, "--labels", "labels.npy"]) != Exit.OK
        assert text in capsys.readouterr().err
    assert main([*words, "--labels", "none.npy"]) != Exit.OK


def test_layer_pattern_without_match_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((2, 1, 28, 28), np.float32))
    assert main(["recalibrate", MODEL, "x.npy", "--layers", "blok*"]) == Exit.USAGE
    assert "'blok*' matches none of the 9 layers" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))


def test_inspect_lists_every_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", MODEL]) == Exit.OK
    out = capsys.readouterr().out
    assert "input   image  float32[batch, 1, 28, 28]" in out
    assert "block3.shortcut.1        64  1e-05  yes" in out
    assert "9 layers, 9 can be recalibrated" in out


def test_fold_lists_every_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "f.onnx"
    assert main(["fold", MODEL, "-o", str(output)]) == Exit.OK
    out = capsys.readouterr().out
    assert sum(line.split()[1:2] == ["folded"] for line in out.splitlines()) == 9
    assert "folded 9 of 9 layers" in out
    assert "folded and unfolded agree to " in out
    assert " in float64" in out
    assert output.stat().st_size > 100_000


def test_fold_verifies_on_given_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "x.npy", tmp_path / "f.onnx"
    np.save(data, np.random.default_rng(0).normal(size=(40, 1, 28, 28)).astype(np.float32))
    assert main(["fold", MODEL, str(data), "-o", str(output), "--json"]) == Exit.OK
    printed = json.loads(capsys.readouterr().out)
    assert printed["parity"]["samples"] == 32
    assert printed["parity"]["passed"] is True
    assert printed["parity"]["max_relative_error"] <= printed["parity"]["tolerance"] == 1e-5
    assert all(output["exact_error"] <= 1e-9 for output in printed["parity"]["outputs"])


def test_fold_keeps_layer_that_fails_verification(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = onnx.load(MODEL)
    first = next(node for node in original.graph.node if node.op_type == "Conv")
    faulty = FaultyConv(first.name, spoil=thousandth_in_one_channel)
    monkeypatch.setattr("bn_ops.folding.run.RULES", {**RULES, "Conv": faulty})
    output = tmp_path / "f.onnx"
    assert main(["fold", MODEL, "-o", str(output), "--json"]) == Exit.OK
    printed = json.loads(capsys.readouterr().out)
    (kept,) = (layer for layer in printed["layers"] if layer["status"] == "kept")
    assert "folding it changed the model's outputs by " in kept["reason"]
    assert printed["folded"] == 8
    assert printed["parity"]["passed"] is True
    written = [node.op_type for node in onnx.load(output).graph.node]
    assert written.count("BatchNormalization") == 1


def result(report: Any) -> Result:
    return Result(
        recalibration_id=None,
        model=b"",
        unfolded=None,
        report=report,
        report_html="",
        statistics={},
    )


def test_report_of_another_version() -> None:
    newer: dict[str, object] = {"layers": None, "fold": 3, "parity": {}, "stream": []}
    for report in ({}, newer):
        printed = summary(result(report), ())
        assert summary_lines(printed) == ["recalibrated 0 layers (None, None)"]


def test_summary_lists_few_kept_layers() -> None:
    fold = [{"name": f"bn{i}", "status": "kept", "reason": "why"} for i in range(7)]
    printed = summary(result({"fold": fold, "warnings": ["few samples"]}), ())
    text = summary_lines(printed)
    assert text[1:4] == ["folded 0 of 7 layers", "  kept bn0: why", "  kept bn1: why"]
    assert text[-2:] == [
        "  and 2 more, listed in the report",
        "\x1b[33mwarning:\x1b[0m few samples",
    ]


@pytest.mark.parametrize(
    ("length", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (14_000_000, "14 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_sizes_have_three_digits(length: int, written: str) -> None:
    assert size(length) == written


def test_counts_have_their_plural() -> None:
    assert [count(1, "layer"), count(2, "batch"), count(1234, "sample")] == [
        "1 layer",
        "2 batches",
        "1,234 samples",
    ]


def test_table_columns_are_aligned() -> None:
    assert table(["a", "n"], [["long", "5"], ["x", "10"]], right=frozenset({1})) == (
        "a      n\nlong   5\nx     10"
    )


def test_fold_reports_model_without_batchnorm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fold", MODEL, "-o", "once.onnx"]) == Exit.OK
    capsys.readouterr()
    assert main(["fold", "once.onnx", "-o", "twice.onnx"]) == Exit.OK
    printed, wrote = capsys.readouterr().out.splitlines()
    assert printed.endswith("there is nothing to fold")
    assert wrote.startswith("wrote model  twice.onnx (")
    assert Path("twice.onnx").read_bytes() == Path("once.onnx").read_bytes()


def test_size_of_model_includes_its_data_files(tmp_path: Path) -> None:
    model = tmp_path / "large [1].onnx"
    model.write_bytes(bytes(500))
    assert file_size(model) == "500 B"
    (tmp_path / "large [1].onnx.0.data").write_bytes(bytes(2_000))
    (tmp_path / "large [1].onnx.1.data").write_bytes(bytes(3_000))
    (tmp_path / "large 1.onnx.0.data").write_bytes(bytes(9_000))
    assert file_size(model) == "5.5 kB"
