"""Wrong uses of the command: one line that says what to do, and a documented exit code."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import bn_ops
from bnrecal_client.cli import main
from bnrecal_client.cli.commands import demo
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.result import write_atomic
from service.storage.data_folder import locked

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits" / "mnist_resnet.onnx"
DOCUMENTED = set(
    re.findall(r"^\| (\d) \|", (ROOT / "docs" / "cli.md").read_text("utf-8"), flags=re.MULTILINE)
)


def samples(count: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0.1, 0.4, (count, 1, 28, 28)).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models, data and images, right and wrong."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "m.onnx").write_bytes(DIGITS.read_bytes())
    onnx.save(bn_ops.fold(onnx.load(DIGITS)).model, folder / "folded.onnx")
    (folder / "text.onnx").write_text("no model")
    x = samples()
    np.save(folder / "x.npy", x)
    np.save(folder / "hwc.npy", x.transpose(0, 2, 3, 1))
    np.save(folder / "one.npy", x[0])
    np.save(folder / "float64.npy", x.astype(np.float64))
    bad = x.copy()
    bad[5, 0, 0, 0] = np.nan
    np.save(folder / "nan.npy", bad)
    (folder / "text.npy").write_text("no array")
    (folder / "zero.npy").touch()
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:10_000])
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "none.npy", x[:0])
    np.save(folder / "times255.npy", 255 * np.abs(x))
    np.save(folder / "labels.npy", np.zeros(9, np.int64))
    (folder / "empty").mkdir()
    (folder / "photos").mkdir()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(folder / "photos" / "0.png")
    (folder / "photos" / "1.png").write_bytes(b"damaged")
    (folder / "classes.txt").write_text("a\na\n")
    (folder / "other.json").write_text("[]")
    (folder / "broken.toml").write_text("colour = 1")
    return folder


@pytest.fixture
def desk(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], str]]:
    """Return what fills the words of a case in, in an environment without a server."""
    for path in prepared.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("BNRECAL_SERVER", "BNRECAL_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("service.storage.data_folder.START_SECONDS", 0)
    with socket.socket() as taken, locked(tmp_path / "used"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        yield lambda word: word.format(port=port)


Captured = pytest.CaptureFixture[str]

# Words of the command line, the exit code, and the fix in the message.
CASES: tuple[tuple[str, Exit, str], ...] = (
    ("recalibrte m.onnx x.npy", Exit.USAGE, "did you mean recalibrate?"),
    ("recalibrate m.onnx x.npy --estimatr shrink", Exit.USAGE, "did you mean --estimator?"),
    ("recalibrate m.onnx x.npy --estimator shrnk", Exit.USAGE, "did you mean shrink?"),
    ("recalibrate m.onnx x.npy --estimator prior", Exit.USAGE, "write auto, .*prior:64"),
    ("recalibrate m.onnx x.npy --estimator prior:many", Exit.USAGE, "write auto, .*prior:64"),
    ("recalibrate m.onnx x.npy --method exakt", Exit.USAGE, "did you mean exact?"),
    ("recalibrate m.onnx photos --preprocess imagnet", Exit.USAGE, "did you mean imagenet?"),
    ("recalibrate m.onnx photos --preprocess mine.json", Exit.USAGE, "one of imagenet, unit"),
    ("recalibrate m.onnx photos --preprocess other.json", Exit.USAGE, 'like {"resize": 256}'),
    ("recalibrate m.onnx photos --preprocess imagenet", Exit.USAGE, "takes one channel"),
    ("recalibrate m.onnx", Exit.USAGE, "DATA is missing .*--help"),
    ("recalibrate m.onnx x.npy --limit 0", Exit.USAGE, "0 is less than 1"),
    ("recalibrate m.onnx x.npy --limit many", Exit.USAGE, "many is not a number"),
    ("recalibrate m.onnx x.npy --max-drop nan", Exit.USAGE, "nan is not a number"),
    ("recalibrate m.onnx x.npy --max-drop 0.1", Exit.USAGE, "pass --labels"),
    ("recalibrate m.onnx x.npy --classes classes.txt", Exit.USAGE, "pass --labels"),
    ("recalibrate m.onnx x.npy --labels labels.npy", Exit.INPUT, "9 labels, .* only 8 samples"),
    ("recalibrate m.onnx x.npy --labels x.npy --metric f", Exit.USAGE, "module:function"),
    ("recalibrate gone.onnx x.npy", Exit.MODEL, "no model file gone.onnx"),
    ("recalibrate photos x.npy", Exit.MODEL, "photos is a folder; name the model file in it"),
    ("recalibrate m.onnx x.npy --estimator prior", Exit.USAGE, "'prior' requires an option"),
    ("recalibrate text.onnx x.npy", Exit.MODEL, "not an ONNX"),
    ("recalibrate folded.onnx x.npy", Exit.MODEL, "source_batches="),
    ("recalibrate m.onnx gone.npy", Exit.INPUT, "no data file gone.npy"),
    ("recalibrate x.npy m.onnx", Exit.INPUT, "write the model first, then the data"),
    ("recalibrate m.onnx empty", Exit.INPUT, "has no .npy"),
    ("recalibrate m.onnx photos", Exit.INPUT, "such as --preprocess imagenet"),
    ("recalibrate m.onnx photos --preprocess unit", Exit.INPUT, "photos/1.png.*--skip-bad"),
    ("recalibrate m.onnx hwc.npy", Exit.INPUT, r"array\.transpose\(0, 3, 1, 2\)"),
    ("recalibrate m.onnx one.npy", Exit.INPUT, r"array\[None\]"),
    ("recalibrate m.onnx text.npy", Exit.INPUT, "it is not an array of numpy.save"),
    ("recalibrate m.onnx zero.npy", Exit.INPUT, "it is empty"),
    ("recalibrate m.onnx cut.npy", Exit.INPUT, "it has 10,000 of 25,216 bytes"),
    ("recalibrate m.onnx objects.npy", Exit.INPUT, "it has Python objects"),
    ("recalibrate m.onnx none.npy", Exit.INPUT, "has no samples"),
    ("recalibrate m.onnx x.npy --labels x.npy", Exit.INPUT, "x.npy holds float32: a label is an"),
    ("plan --model m.onnx --samples 0", Exit.USAGE, "at least one sample"),
    ("plan --model m.onnx --samples 9 --shape 3x28", Exit.USAGE, r"\[1, 28, 28\], not \[3, 28\]"),
    ("serve --data-dir x.npy", Exit.USAGE, "it is a file"),
    ("recalibrate m.onnx float64.npy", Exit.INPUT, r"array\.astype\('float32'\)"),
    ("recalibrate m.onnx nan.npy", Exit.INPUT, "nan.npy, sample 5.*--skip-bad"),
    ("recalibrate m.onnx times255.npy", Exit.INPUT, "Divide|divide|scale"),
    ("recalibrate m.onnx x.npy --layers blok*", Exit.USAGE, "matches none of the 9 layers"),
    ("recalibrate m.onnx x.npy -o m.onnx", Exit.USAGE, "pass --force"),
    ("recalibrate m.onnx x.npy -o gone/f.onnx", Exit.USAGE, "no folder gone"),
    ("recalibrate m.onnx x.npy -o /proc/f.onnx", Exit.USAGE, "/proc cannot be written to"),
    ("recalibrate m.onnx x.npy --report /proc/r.html", Exit.USAGE, "/proc cannot be written to"),
    ("recalibrate m.onnx x.npy -o empty", Exit.USAGE, "name a file in it"),
    ("recalibrate m.onnx x.npy -o a --unfolded a", Exit.USAGE, "two outputs"),
    ("recalibrate m.onnx x.npy --report r.pdf", Exit.USAGE, r"is \.html or \.json"),
    ("recalibrate m.onnx x.npy --resume rc_1", Exit.USAGE, "pass --server"),
    ("recalibrate m.onnx x.npy --connections 2", Exit.USAGE, "pass --server"),
    ("recalibrate m.onnx x.npy --name mine", Exit.USAGE, "pass --server"),
    ("recalibrate m.onnx x.npy --local --server 127.0.0.1:1", Exit.USAGE, "leave --server out"),
    ("recalibrate m.onnx x.npy --server ftp://host", Exit.USAGE, "write it like http://"),
    ("status rc_1 --server 127.0.0.1:1 --retry-timeout 0", Exit.UNREACHABLE, "bnrecal serve"),
    ("list", Exit.USAGE, "pass --server URL, set BNRECAL_SERVER"),
    ("report other.json", Exit.INPUT, "not a report of a recalibration"),
    ("report gone.json", Exit.INPUT, "no file gone.json, .* begins with rc_"),
    ("compare other.json gone.json", Exit.INPUT, "not a report|no file"),
    ("recalibrate m.onnx x.npy -o new.pt", Exit.USAGE, "written as ONNX"),
    ("recalibrate m.onnx x.npy --unfolded new.npz", Exit.USAGE, "written as ONNX"),
    ("fold m.onnx", Exit.USAGE, "--output is missing"),
    ("inspect m.onnx --images empty", Exit.INPUT, "there is no image"),
    ("fold m.onnx -o /proc/f.onnx", Exit.USAGE, "/proc cannot be written to"),
    ("demo photos", Exit.USAGE, "name another one, or pass --force"),
    ("demo /proc/new", Exit.USAGE, "/proc/new cannot be created"),
    ("demo /proc --force", Exit.USAGE, "/proc cannot be written to"),
    ("demo m.onnx/new", Exit.USAGE, "m.onnx/new cannot be created: Not a directory"),
    # Without a server at this address: the files are checked before anything is sent.
    ("fetch rc_1 --server 127.0.0.1:1 -o /proc/f.onnx", Exit.USAGE, "/proc cannot be written to"),
    ("report rc_1 --server 127.0.0.1:1 -o /proc/r.html", Exit.USAGE, "/proc cannot be written to"),
    ("report rc_1 --server 127.0.0.1:1 --plot /proc/d.svg", Exit.USAGE, "/proc cannot be written"),
    ("completion tcsh", Exit.USAGE, "not one of bash, zsh, fish"),
    ("serve --data-dir used", Exit.USAGE, "another process uses the data folder"),
    ("serve --port {port} --data-dir new", Exit.USAGE, "already in use|in use"),
    ("serve --data-dir /proc/new", Exit.USAGE, "/proc/new"),
    ("serve --config broken.toml", Exit.USAGE, "unknown key 'colour'"),
    ("admin nothing", Exit.USAGE, "--help"),
)


@pytest.mark.parametrize(("words", "code", "fix"), CASES, ids=[case[0] for case in CASES])
def test_wrong_use_gets_one_line_with_the_fix(
    words: str, code: Exit, fix: str, desk: Callable[[str], str], capfd: Captured
) -> None:
    before = sorted(Path().glob("*.onnx"))
    assert main(desk(words).split()) == code
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("bnrecal")
    assert fix in err or re.search(fix, err), err
    assert str(int(code)) in DOCUMENTED
    assert sorted(Path().glob("*.onnx")) == before


@pytest.mark.parametrize("folder", ["/proc/new", "m.onnx/new"])
def test_demo_checks_its_folder_before_training(
    folder: str, desk: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "library", lambda *_: pytest.fail("trained before the check"))
    assert main(["demo", desk(folder)]) == Exit.USAGE


def test_there_are_at_least_40_cases() -> None:
    assert len({words for words, _, _ in CASES}) >= 40


def test_full_disk(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["fold", "m.onnx", "-o", "full.onnx", "--quiet"]) == Exit.INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device; free some space, or write to another disk (-o)" in line
    with pytest.raises(OSError, match=r"No space left on device: 'full\.onnx'"):
        write_atomic("full.onnx", b"model")
    assert not list(prepared.glob("*full.onnx*"))
