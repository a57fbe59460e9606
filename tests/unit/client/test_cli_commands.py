"""The command line: exit codes, one-line errors, what is printed and what is written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import bnrecal_client.errors as tree
from bnrecal_client import __version__
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit, exit_of
from bnrecal_client.errors import BatchError, BnrecalError, RecalibrationFailed
from tests.support.fake_bnrecal import MODEL, FakeServer, Fault
from tests.support.fake_http import listening


class Desk:
    """A folder with a model and data, a server, and the command run in this process."""

    def __init__(self, folder: Path, server: FakeServer, url: str, capsys: Any) -> None:
        self.folder = folder
        self.server = server
        self.url = url
        self._capsys = capsys
        self.model = folder / "model.onnx"
        self.model.write_bytes(MODEL)
        self.data = folder / "x.npy"
        np.save(self.data, np.arange(30, dtype=np.float32).reshape(10, 3))

    def run(self, *words: object) -> tuple[int, str, str]:
        """Run a command line; returns exit code, stdout, stderr."""
        code = main([str(word) for word in words])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def recalibrate(self, *words: object) -> tuple[int, str, str]:
        return self.run("recalibrate", self.model, self.data, "--server", self.url, *words)


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BNRECAL_TOKEN", raising=False)
    server = FakeServer()
    with listening(server) as url:
        yield Desk(tmp_path, server, url, capsys)


def test_the_number_of_connections_reaches_the_client(desk: Desk) -> None:
    code, _, told = desk.recalibrate("--connections", 99)
    assert (code, told.count("\n")) == (2, 1)
    assert "connections is 99: give a number from 1 to 16" in told
    assert desk.recalibrate("--connections", 3, "--batch-size", 1)[0] == 0
    assert len(desk.server.recalibrations["rc_00"].batches) == 10
    code, _, told = desk.run("recalibrate", desk.model, desk.data, "--connections", 3)
    assert (code, "with --server" in told) == (2, True)


def test_a_run_writes_every_file_that_was_asked_for(desk: Desk) -> None:
    code, out, err = desk.recalibrate(
        *("--batch-size", 4, "-o", "f.onnx", "--unfolded", "u.onnx", "--statistics"),
        *("s.safetensors", "--report", "r.html", "--report", "r.json"),
    )
    assert (code, err) == (Exit.OK, "")
    model = next(iter(desk.server.models))
    assert Path("f.onnx").read_text() == f"folded {model}"
    assert Path("u.onnx").read_text() == f"unfolded {model}"
    assert Path("r.html").read_text() == "<h1>report</h1>"
    assert json.loads(Path("r.json").read_text())["report"] == 1
    mean = safetensors.numpy.load_file("s.safetensors")["bn.running_mean"]
    np.testing.assert_allclose(mean, np.arange(30).reshape(10, 3).mean(0), rtol=1e-12)
    for name in ("f.onnx", "u.onnx", "s.safetensors", "r.html", "r.json"):
        assert name in out


def test_the_folded_model_has_a_name_even_if_none_was_given(desk: Desk) -> None:
    assert desk.recalibrate("--quiet") == (Exit.OK, "", "")
    assert Path("model.recalibrated.onnx").is_file()


def test_json_is_one_object_and_nothing_else(desk: Desk) -> None:
    code, out, err = desk.recalibrate("--json", "-o", "f.onnx")
    told = json.loads(out)
    assert (code, err) == (Exit.OK, "")
    assert told["files"] == {"model": "f.onnx"}
    assert told["recalibration_id"] == "rc_00"
    assert told["server"] == desk.url


def test_options_reach_the_server(desk: Desk) -> None:
    desk.recalibrate("--estimator", "prior:16", "--layers", "b*", "!bn2", "--limit", 5)
    stored = desk.server.recalibrations["rc_00"]
    assert stored.options["estimator"] == {"name": "prior", "samples": 16, "mixture": False}
    assert stored.options["layers"] == ["b*", "!bn2"]
    sent = safetensors.numpy.load(stored.batches[0])["x"]
    assert sent.shape == (5, 3)


def test_a_token_comes_from_the_environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.server.token = "s3cret"
    code, _, err = desk.recalibrate()
    assert (code, err) == (Exit.USAGE, "bnrecal: a token is needed\n")
    monkeypatch.setenv("BNRECAL_TOKEN", "s3cret")
    assert desk.recalibrate("--quiet")[0] == Exit.OK


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["recalibrate", "{model}", "none.npy"], Exit.INPUT, "no data file"),
        (["recalibrate", "{model}", "{data}", "-o", "no/f.onnx"], Exit.USAGE, "no folder"),
        (["recalibrate", "{model}", "{data}", "-o", "."], Exit.USAGE, "is a folder"),
        (
            ["recalibrate", "{model}", "{data}", "-o", "a", "--unfolded", "./a"],
            Exit.USAGE,
            "two outputs",
        ),
        (["recalibrate", "{model}", "{data}", "--report", "r.pdf"], Exit.USAGE, ".html or .json"),
        (["recalibrate", "{model}", "{data}", "--estimator", "best"], Exit.USAGE, "prior:SAMPLES"),
        (["recalibrate", "{model}", "{data}", "--server", "nowhere"], Exit.USAGE, "write it like"),
        (["recalibrate", "none", "{data}", "--server", "{url}"], Exit.MODEL, "cannot be read"),
        (["recalibrate", "{data}", "{data}", "--server", "{url}"], Exit.MODEL, "not an ONNX"),
        (["recalibrate", "{model}", "{data}", "--resume", "rc_1"], Exit.USAGE, "--server"),
        (["status", "rc_9", "--server", "{url}"], Exit.INPUT, "no recalibration rc_9"),
        (["fetch", "rc_9", "--server", "{url}"], Exit.INPUT, "no recalibration rc_9"),
        (["cancel", "rc_9", "--server", "{url}"], Exit.INPUT, "no recalibration rc_9"),
        (["inspect", "none.onnx"], Exit.MODEL, "no model file"),
        (["fold", "none.onnx", "-o", "f.onnx"], Exit.MODEL, "no model file"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_own_code(
    desk: Desk, words: list[str], code: Exit, says: str
) -> None:
    filled = [w.format(model=desk.model, data=desk.data, url=desk.url) for w in words]
    before = sorted(desk.folder.iterdir())
    found, out, err = desk.run(*filled)
    assert (found, out) == (code, "")
    assert err.startswith("bnrecal: ")
    assert err.count("\n") == 1
    assert says in err
    assert sorted(desk.folder.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["guess"],
        ["recalibrate", "model.onnx"],
        ["recalibrate", "m", "d", "--batch-size", "0"],
        ["recalibrate", "m", "d", "--retry-timeout", "nan"],
        ["status", "rc_0"],
        ["fold", "m"],
    ],
)
def test_a_command_line_that_cannot_be_read_is_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == Exit.USAGE


def test_the_version_is_that_of_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"bnrecal {__version__}\n"


@pytest.mark.parametrize(
    "command", ["recalibrate", "inspect", "fold", "serve", "status", "fetch", "cancel"]
)
def test_the_help_of_every_command_says_what_it_does_and_what_each_option_means(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage, about, *rest = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: bnrecal {command} ")
    assert about.endswith(".")
    for paragraph in rest:
        lines = paragraph.splitlines()[1:]
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            # An argument has its meaning beside it or, deeply indented, below it.
            alone = re.match(r" {2}\S+( \S+)*$", line)
            assert not alone or following.startswith(" " * 10), line


def test_an_error_is_an_object_with_json(desk: Desk) -> None:
    code, out, err = desk.run("status", "rc_9", "--server", desk.url, "--json")
    told = json.loads(out)
    assert told["exit"] == code == Exit.INPUT
    assert told["error"]["code"] == "not-found"
    assert err.count("\n") == 1


def test_a_failed_run_is_the_fault_of_its_cause(desk: Desk) -> None:
    desk.server.fails_with = {"code": "batch-not-finite", "detail": "batch 1 holds NaN", "batch": 1}
    code, out, err = desk.recalibrate("--json")
    assert code == Exit.INPUT
    assert json.loads(out)["error"]["batch"] == 1
    assert "holds NaN" in err
    assert not Path("model.recalibrated.onnx").exists()


def test_a_run_that_failed_by_itself_is_6(desk: Desk) -> None:
    desk.server.fails_with = {"code": "engine-failed", "detail": "the runtime failed"}
    assert desk.recalibrate()[0] == Exit.FAILED


def test_a_server_that_is_not_there_is_5(desk: Desk) -> None:
    words = ("--server", "http://127.0.0.1:1", "--retry-timeout", "0.3")
    code, _, err = desk.run("recalibrate", desk.model, desk.data, *words)
    assert code == Exit.UNREACHABLE
    assert "http://127.0.0.1:1 does not respond" in err


def test_a_server_that_went_away_leaves_something_to_resume(desk: Desk) -> None:
    desk.server.faults = [Fault(kind="lose", where="PUT .*/1", times=1000)]
    code, _, err = desk.recalibrate("--batch-size", 4, "--retry-timeout", "0.3")
    assert code == Exit.UNREACHABLE
    assert "--resume rc_00 goes on" in err
    desk.server.faults = []
    assert desk.recalibrate("--batch-size", 4, "--resume", "rc_00", "--quiet")[0] == Exit.OK


def test_status_and_fetch_and_cancel_speak_of_one_recalibration(desk: Desk) -> None:
    desk.recalibrate("--quiet")
    code, out, _ = desk.run("status", "rc_00", "--server", desk.url)
    assert code == Exit.OK
    assert out.startswith("rc_00  succeeded\n")
    told = json.loads(desk.run("status", "rc_00", "--server", desk.url, "--json")[1])
    assert (told["state"], told["batches"]["received"]) == ("succeeded", 1)
    assert desk.run("fetch", "rc_00", "--server", desk.url, "--quiet")[0] == Exit.OK
    assert Path("rc_00.onnx").read_bytes() == Path("model.recalibrated.onnx").read_bytes()
    assert desk.run("cancel", "rc_00", "--server", desk.url)[1] == "rc_00  cancelled\n"
    code, _, err = desk.run("fetch", "rc_00", "--server", desk.url)
    assert (code, err) == (Exit.STOPPED, "bnrecal: rc_00 was cancelled\n")


def test_fetch_that_waited_long_enough_says_how_to_go_on(desk: Desk) -> None:
    desk.server.never_ends = True
    desk.server.faults = [Fault(kind="problem", where="GET .*rc_00$", status=500, retryable=False)]
    assert desk.recalibrate("--quiet")[0] != Exit.OK
    code, _, err = desk.run("fetch", "rc_00", "--server", desk.url, "--timeout", "0.2")
    assert code == Exit.FAILED
    assert "bnrecal fetch rc_00" in err


def test_every_error_has_an_exit_code() -> None:
    internal = {"BnrecalError", "ServerError", "UnexpectedResponseError"}
    for name, kind in vars(tree).items():
        if isinstance(kind, type) and issubclass(kind, BnrecalError):
            assert (exit_of(kind("x")) == Exit.INTERNAL) is (name in internal), name
    assert exit_of(tree.Interrupted("x", recalibration_id="rc_0")) == Exit.STOPPED


def test_the_cause_decides_over_the_failure() -> None:
    failed = RecalibrationFailed("x")
    failed.__cause__ = BatchError("y")
    assert exit_of(failed) == Exit.INPUT
    assert exit_of(BnrecalError("x")) == Exit.INTERNAL


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "bnrecal_client", *map(str, words)]


def test_the_process_ends_with_the_exit_code_and_no_traceback(desk: Desk) -> None:
    done = subprocess.run(
        command("status", "rc_9", "--server", desk.url),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == Exit.INPUT
    assert done.stderr == "bnrecal: there is no recalibration rc_9\n"


def test_ctrl_c_in_the_middle_says_how_to_go_on(desk: Desk) -> None:
    desk.server.never_ends = True
    process = subprocess.Popen(
        command("recalibrate", desk.model, desk.data, "--server", desk.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(line.endswith("/start") for line in desk.server.requests):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (Exit.STOPPED, "")
    assert err.count("\n") == 1
    assert "--resume rc_00 goes on" in err
    desk.server.never_ends = False
    assert desk.recalibrate("--resume", "rc_00", "--quiet")[0] == Exit.OK


def test_a_reader_that_goes_away_is_no_error(desk: Desk) -> None:
    desk.recalibrate("--quiet")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            command("status", "rc_00", "--server", desk.url),
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (Exit.OK, b"")


def test_without_bn_ops_the_message_tells_both_ways_out(desk: Desk) -> None:
    code = (
        "import sys; sys.modules['bn_ops'] = None\n"
        "from bnrecal_client.cli import main\n"
        f"sys.exit(main(['recalibrate', {str(desk.model)!r}, {str(desk.data)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == Exit.USAGE
    assert "pip install bnrecal" in done.stderr
    assert "--server URL" in done.stderr


def test_ctrl_c_while_the_command_still_loads_is_calm() -> None:
    code = """
import sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "httpx":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from bnrecal_client.cli import main
sys.exit(main(["--help"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == Exit.STOPPED
    assert done.stderr == "bnrecal: interrupted; nothing was written\n"
