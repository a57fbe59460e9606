"""The command line: exit codes, one-line errors, what is printed and what is written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import bnrecal_client.errors as tree
from bnrecal_client import Client, __version__
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit, exit_of
from bnrecal_client.cli.grammar import build_group
from bnrecal_client.errors import BatchError, BnrecalError, RecalibrationFailed
from service.storage.data_folder import locked
from tests.support.client_server import MODEL, ClientServer, Fault, client_server
from tests.support.listening import listening
from tests.support.played_clients import URL
from tests.support.waiting import until


class Desk:
    """A folder with a model and data, a server, and the command run in this process."""

    def __init__(self, folder: Path, server: ClientServer, capsys: Any) -> None:
        self.folder = folder
        self.server = server
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
        return self.run("recalibrate", self.model, self.data, "--server", URL, *words)


@pytest.fixture
def desk(
    tmp_path: Path,
    server: ClientServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BNRECAL_TOKEN", raising=False)
    monkeypatch.delenv("BNRECAL_SERVER", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    connected = partial(Client, transport=server.transport)
    monkeypatch.setattr("bnrecal_client.client.Client", connected)
    return Desk(folder, server, capsys)


def test_number_of_connections_reaches_client(desk: Desk) -> None:
    code, _, printed = desk.recalibrate("--connections", 99)
    assert (code, printed.count("\n")) == (2, 1)
    assert "connections is 99: give a number from 1 to 16" in printed
    assert desk.recalibrate("--connections", 3, "--batch-size", 1)[0] == 0
    assert len(desk.server.stored(desk.server.id)) == 10
    code, _, printed = desk.run("recalibrate", desk.model, desk.data, "--connections", 3)
    assert (code, "pass --server" in printed) == (2, True)


def test_run_writes_every_requested_file(desk: Desk) -> None:
    code, out, err = desk.recalibrate(
        *("--batch-size", 4, "-o", "f.onnx", "--unfolded", "u.onnx", "--statistics"),
        *("s.safetensors", "--report", "r.html", "--report", "r.json"),
    )
    assert (code, err) == (Exit.OK, "")
    assert Path("f.onnx").read_bytes() == b"folded " + MODEL
    assert Path("u.onnx").read_bytes() == b"unfolded " + MODEL
    assert Path("r.html").read_text() == "<h1>report</h1>"
    assert json.loads(Path("r.json").read_text())["report"] == 1
    mean = safetensors.numpy.load_file("s.safetensors")["bn.running_mean"]
    np.testing.assert_allclose(mean, np.arange(30).reshape(10, 3).mean(0), rtol=1e-12)
    for name in ("f.onnx", "u.onnx", "s.safetensors", "r.html", "r.json"):
        assert name in out


def test_folded_model_has_a_default_name(desk: Desk) -> None:
    assert desk.recalibrate("--quiet") == (Exit.OK, "", "")
    assert Path("model.recalibrated.onnx").is_file()


def test_every_report_is_written_and_listed(desk: Desk) -> None:
    words = [word for name in ("a.html", "b.json", "c.html") for word in ("--report", name)]
    code, out, _ = desk.recalibrate(*words)
    assert code == Exit.OK
    for name in ("a.html", "b.json", "c.html"):
        assert Path(name).is_file()
        assert name in out


@pytest.mark.parametrize("option", ["-o", "--unfolded", "--statistics"])
@pytest.mark.parametrize("name", ["model.onnx", "link.onnx", "x.npy"])
def test_input_is_overwritten_only_with_force(desk: Desk, option: str, name: str) -> None:
    (desk.folder / "link.onnx").symlink_to(desk.model)
    before = {path: path.read_bytes() for path in (desk.model, desk.data)}
    code, _, err = desk.recalibrate(option, name)
    assert (code, err.count("\n")) == (Exit.USAGE, 1)
    assert "would be overwritten" in err
    assert {path: path.read_bytes() for path in before} == before
    assert desk.server.transport.requests == []
    assert desk.recalibrate(option, name, "--force", "--quiet")[0] == Exit.OK


def test_fold_overwrites_its_input_only_with_force(desk: Desk) -> None:
    code, _, err = desk.run("fold", desk.model, "-o", desk.model)
    assert (code, "would be overwritten" in err) == (Exit.USAGE, True)
    assert desk.model.read_bytes() == MODEL


def test_serve_on_locked_data_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.storage.data_folder.START_SECONDS", 0)
    with locked(tmp_path / "data"):
        code = main(["serve", "--port", "0", "--data-dir", str(tmp_path / "data")])
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (Exit.USAGE, "", 1)
    assert f"another process uses the data folder {tmp_path / 'data'}" in captured.err


def test_admin_commands_parse_their_own_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["admin", "--data-dir", str(tmp_path / "data"), "--json", "tokens", "create", "ci"]
    assert main(words) == Exit.OK
    assert "token" in json.loads(capsys.readouterr().out)
    assert main(["admin", "nothing"]) == Exit.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert "'nothing'" in line


def test_json_is_one_object_and_nothing_else(desk: Desk) -> None:
    code, out, err = desk.recalibrate("--json", "-o", "f.onnx")
    printed = json.loads(out)
    assert (code, err) == (Exit.OK, "")
    assert printed["files"] == [{"kind": "model", "path": "f.onnx"}]
    assert printed["recalibration_id"] == desk.server.id
    assert printed["server"] == URL


def test_options_reach_the_server(desk: Desk) -> None:
    desk.recalibrate("--estimator", "prior:16", "--layers", "b*", "--layers", "bn1", "--limit", 5)
    (opened,) = desk.server.recalibrations
    estimator = {"name": "prior", "samples": 16, "mixture": False}
    assert opened["options"]["estimator"] == estimator
    assert opened["options"]["layers"] == ["b*", "bn1"]
    assert opened["batches"]["samples"] == 5


def test_token_comes_from_environment(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "s3cret"
    digest = hashlib.sha256(token.encode()).hexdigest()
    with client_server(tmp_path / "tokens", tokens=digest) as server:
        connected = partial(Client, transport=server.transport)
        monkeypatch.setattr("bnrecal_client.client.Client", connected)
        code, _, err = desk.recalibrate()
        assert (code, err.count("\n"), "--token TOKEN" in err) == (Exit.USAGE, 1, True)
        monkeypatch.setenv("BNRECAL_TOKEN", token)
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
        (["recalibrate", "{model}", "{data}", "--estimator", "best"], Exit.USAGE, "best"),
        (["recalibrate", "{model}", "{data}", "--server", "nowhere"], Exit.USAGE, "write it like"),
        (["recalibrate", "none", "{data}", "--server", URL], Exit.MODEL, "cannot be read"),
        (["recalibrate", "bad.onnx", "{data}", "--server", URL], Exit.MODEL, "not an ONNX"),
        (["recalibrate", "{model}", "{data}", "--resume", "rc_1"], Exit.USAGE, "--server"),
        (["status", "rc_9", "--server", URL], Exit.INPUT, "rc_9"),
        (["fetch", "rc_9", "--server", URL], Exit.INPUT, "rc_9"),
        (["cancel", "rc_9", "--server", URL], Exit.INPUT, "rc_9"),
        (["inspect", "none.onnx"], Exit.MODEL, "no model file"),
        (["fold", "none.onnx", "-o", "f.onnx"], Exit.MODEL, "no model file"),
    ],
)
def test_error_is_one_line_with_its_exit_code(
    desk: Desk, words: list[str], code: Exit, says: str
) -> None:
    filled = [w.format(model=desk.model, data=desk.data) for w in words]
    Path("bad.onnx").write_bytes(b"bad")
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
        ["guess"],
        ["recalibrate", "model.onnx"],
        ["recalibrate", "m", "d", "--batch-size", "0"],
        ["recalibrate", "m", "d", "--retry-timeout", "nan"],
        ["status"],
        ["fold", "m"],
    ],
)
def test_invalid_command_line_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == Exit.USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--help` lists the arguments" in err


def test_json_error_of_invalid_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recalibrate", "m", "d", "--limit", "0", "--json"]) == Exit.USAGE
    printed = json.loads(capsys.readouterr().out)
    assert (printed["exit"], printed["error"]["code"]) == (Exit.USAGE, "usage")
    assert "--limit: 0 is less than 1" in printed["error"]["detail"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out == f"bnrecal {__version__}\n"


COMMANDS = tuple(build_group().commands)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one != "admin"])
def test_help_explains_every_argument_and_shows_examples(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main([command, "--help"]) == Exit.OK
    usage, about, *rest = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"Usage: bnrecal {command} ")
    assert about.endswith(".")
    sections = {part.splitlines()[0]: part.splitlines()[1:] for part in rest}
    assert [
        line.startswith("  bnrecal ") or "bnrecal completion" in line
        for line in sections.pop("Examples:")
    ].count(False) == 0
    for title, lines in sections.items():
        assert title.endswith(":")
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            # The help of an argument follows it or is on the next line, indented.
            alone = re.match(r" {2}\S+( \S+)*$", line)
            assert not alone or following.startswith(" " * 10), line


def test_help_lists_every_command_in_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == Exit.OK
    listed = capsys.readouterr().out
    for section in ("Recalibrate:", "Results:", "Server:", "Setup:", "Exit codes:"):
        assert f"\n{section}" in listed
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S", listed, re.MULTILINE)


def test_without_a_command_the_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert (out, err.startswith("Usage: bnrecal COMMAND")) == ("", True)


def test_error_is_an_object_with_json(desk: Desk) -> None:
    code, out, err = desk.run("status", "rc_9", "--server", URL, "--json")
    printed = json.loads(out)
    assert printed["exit"] == code == Exit.INPUT
    assert printed["error"]["code"] == "not-found"
    assert err.count("\n") == 1


def test_failed_run_has_exit_code_of_its_cause(desk: Desk) -> None:
    desk.server.executor.failure = {
        "code": "batch-not-finite",
        "detail": "batch 1 holds NaN",
        "batch": 1,
    }
    code, out, err = desk.recalibrate("--json")
    assert code == Exit.INPUT
    assert json.loads(out)["error"]["batch"] == 1
    assert "holds NaN" in err
    assert not Path("model.recalibrated.onnx").exists()


def test_failed_run_without_typed_cause_is_6(desk: Desk) -> None:
    desk.server.executor.failure = {"code": "engine-failed", "detail": "the runtime failed"}
    assert desk.recalibrate()[0] == Exit.FAILED


def test_missing_server_is_5(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnrecal_client.client.Client", Client)
    words = ("--server", "http://127.0.0.1:1", "--retry-timeout", "0.3")
    code, _, err = desk.run("recalibrate", desk.model, desk.data, *words)
    assert code == Exit.UNREACHABLE
    assert "http://127.0.0.1:1 does not respond" in err


def test_run_without_server_can_be_resumed(desk: Desk) -> None:
    desk.server.transport.faults = [Fault(kind="lose", where="PUT .*/1", times=1000)]
    code, _, err = desk.recalibrate("--batch-size", 4, "--retry-timeout", "0.3")
    assert code == Exit.UNREACHABLE
    assert f"--resume {desk.server.id} continues" in err
    desk.server.transport.faults = []
    words = ("--batch-size", 4, "--resume", desk.server.id, "--quiet")
    assert desk.recalibrate(*words)[0] == Exit.OK


def test_status_fetch_and_cancel_take_an_id(desk: Desk) -> None:
    desk.recalibrate("--quiet")
    name = desk.server.id
    code, out, _ = desk.run("status", name, "--server", URL)
    assert code == Exit.OK
    assert out.startswith(f"{name}  succeeded\n")
    printed = json.loads(desk.run("status", name, "--server", URL, "--json")[1])
    assert (printed["state"], printed["batches"]["received"]) == ("succeeded", 1)
    assert desk.run("fetch", name, "--server", URL, "--quiet")[0] == Exit.OK
    assert Path(f"{name}.onnx").read_bytes() == Path("model.recalibrated.onnx").read_bytes()
    opened = desk.server.http.post(
        "/v1/recalibrations", json={"model": hashlib.sha256(MODEL).hexdigest()}
    ).json()["id"]
    assert desk.run("cancel", opened, "--server", URL)[1] == f"{opened}  cancelled\n"
    code, _, err = desk.run("fetch", opened, "--server", URL)
    assert (code, err) == (Exit.STOPPED, f"bnrecal: {opened} was cancelled\n")


def test_timeout_of_fetch_names_next_command(desk: Desk) -> None:
    desk.server.executor.hold = True
    desk.server.transport.faults = [
        Fault(kind="problem", where="GET .*/rc_[^/]*$", status=500, retryable=False)
    ]
    assert desk.recalibrate("--quiet")[0] != Exit.OK
    name = desk.server.id
    code, _, err = desk.run("fetch", name, "--server", URL, "--timeout", "0.2")
    assert code == Exit.FAILED
    assert f"bnrecal fetch {name}" in err


def test_every_error_has_an_exit_code() -> None:
    internal = {"BnrecalError", "ServerError", "UnexpectedResponseError"}
    for name, kind in vars(tree).items():
        if isinstance(kind, type) and issubclass(kind, BnrecalError):
            assert (exit_of(kind("x")) == Exit.INTERNAL) is (name in internal), name
    assert exit_of(tree.Interrupted("x", recalibration_id="rc_0")) == Exit.STOPPED


def test_cause_takes_precedence_over_failure() -> None:
    failed = RecalibrationFailed("x")
    failed.__cause__ = BatchError("y")
    assert exit_of(failed) == Exit.INPUT
    assert exit_of(BnrecalError("x")) == Exit.INTERNAL


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "bnrecal_client", *map(str, words)]


def test_process_ends_without_traceback(tmp_path: Path) -> None:
    with listening(tmp_path / "server") as (_, url):
        done = subprocess.run(
            command("status", "rc_9", "--server", url),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == Exit.INPUT
    assert done.stderr.startswith("bnrecal: ")
    assert (done.stderr.count("\n"), "rc_9" in done.stderr) == (1, True)


def test_ctrl_c_names_recalibration_to_resume(desk: Desk, tmp_path: Path) -> None:
    with listening(tmp_path / "socket") as (executor, url):
        executor.hold = True
        words = ("recalibrate", desk.model, desk.data, "--server", url)
        process = subprocess.Popen(
            command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda: executor.runs)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (Exit.STOPPED, "")
        assert err.count("\n") == 1
        found = re.search(r"--resume (rc_\w+) continues", err)
        assert found is not None
        executor.hold = False
        done = subprocess.run(command(*words, "--resume", found[1], "--quiet"), check=False)
        assert done.returncode == Exit.OK


def test_closed_stdout_is_not_an_error(tmp_path: Path) -> None:
    with listening(tmp_path / "server") as (_, url), Client(url) as client:
        opened = client.create(client.upload(MODEL).id)
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as gone:
            done = subprocess.run(
                command("status", opened.id, "--server", url),
                stdout=gone,
                stderr=subprocess.PIPE,
                check=False,
                timeout=60,
            )
    assert (done.returncode, done.stderr) == (Exit.OK, b"")


def test_message_about_missing_bn_ops(desk: Desk) -> None:
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


def test_ctrl_c_during_imports_prints_one_line() -> None:
    code = """
import sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
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


@pytest.mark.parametrize("command", [None, "recalibrate", "serve", "list", "report", "doctor"])
def test_help_is_readable_in_40_columns(
    command: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = ["--help"] if command is None else [command, "--help"]
    assert main(words) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    start = next((n for n, line in enumerate(lines) if line == "Examples:"), len(lines))
    end = lines.index("", start) if start < len(lines) else start
    # Examples are not broken: they are for copying.
    assert max(len(line) for line in lines[:start] + lines[end:]) <= 40
    texts = [line for line in lines[end:] if line.startswith("        ")]
    assert not texts or max(map(len, texts)) > 30
