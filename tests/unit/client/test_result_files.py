"""Results, and the files that they are saved to."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from bnrecal_client.errors import OptionError
from bnrecal_client.result import Result, write_atomic


def test_atomic_replacement_keeps_permissions(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    path.chmod(0o640)
    assert write_atomic(path, b"new") == path
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [child.name for child in tmp_path.iterdir()] == ["model.onnx"]


def test_new_file_has_default_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert write_atomic(tmp_path / "new", b"x").stat().st_mode == plain.stat().st_mode


def test_failed_write_keeps_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fails(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["model.onnx"]


def test_data_are_flushed_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(handle: int) -> None:
        order.append("fsync folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "fsync file")
        fsync(handle)

    def spy_replace(self: Path, target: Path) -> Path:
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_atomic(tmp_path / "x", b"x")
    assert order == ["fsync file", "replace", "fsync folder"]


def test_result_saves_all_its_parts(tmp_path: Path) -> None:
    result = Result(
        recalibration_id=None,
        model=b"onnx",
        unfolded=None,
        report={"report": 1},
        report_html="<h1>σ</h1>",
        statistics={"b.running_var": np.ones(2), "a.running_mean": np.zeros(2)},
    )
    assert result.save(tmp_path / "m.onnx").read_bytes() == b"onnx"
    assert json.loads(result.save_report(tmp_path / "r.json").read_text()) == {"report": 1}
    assert result.save_report(tmp_path / "r.html").read_text(encoding="utf-8") == "<h1>σ</h1>"
    saved = safetensors.numpy.load_file(result.save_statistics(tmp_path / "s.safetensors"))
    assert sorted(saved) == ["a.running_mean", "b.running_var"]


def test_result_does_not_overwrite_its_source(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"source")
    result = Result(
        recalibration_id="rc_1",
        model=b"onnx",
        unfolded=b"unfolded",
        report={},
        report_html="",
        statistics={},
        source=source,
    )
    for save in (result.save, result.save_unfolded):
        with pytest.raises(OptionError, match="source model"):
            save(tmp_path / "." / "model.onnx")
    assert source.read_bytes() == b"source"
    assert result.save(source, force=True).read_bytes() == b"onnx"


def test_error_names_the_file_and_not_its_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "gone" / "model.onnx"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(target, b"x")
    assert caught.value.filename == str(target)


def test_unfolded_model_that_was_not_fetched(tmp_path: Path) -> None:
    result = Result(
        recalibration_id="rc_1",
        model=b"",
        unfolded=None,
        report={},
        report_html="",
        statistics={},
    )
    with pytest.raises(OptionError, match="pass unfolded=True"):
        result.save_unfolded(tmp_path / "model.onnx")


def test_repr_of_a_result_is_one_line() -> None:
    result = Result(
        recalibration_id="rc_1",
        model=bytes(1_000_000),
        unfolded=None,
        report={"warnings": ["x" * 1000]},
        report_html="x" * 1000,
        statistics={"bn.running_mean": np.zeros(1000), "bn.running_var": np.ones(1000)},
    )
    assert repr(result) == "<Result rc_1: statistics of 1 layers, model of 1,000,000 bytes>"
