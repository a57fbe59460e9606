"""`list`, `report`, `compare`, `demo`, `completion`, and where the server is named."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnrecal_client import Client
from bnrecal_client._http.environment import config_file, find_server
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from tests.support.client_server import MODEL
from tests.support.played_clients import URL
from tests.support.reports import full_report
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]


def test_server_comes_from_environment_then_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = desk.run("list")
    assert (code, "no server is named" in err, err.count("\n")) == (Exit.USAGE, True, 1)
    file = config_file()
    file.parent.mkdir(parents=True)
    file.write_text('server = "http://configured:1"\ntoken = "secret"\nretry_timeout = 3\n')
    found = find_server()
    assert found is not None
    assert (found.url, found.token, found.retry_timeout) == ("http://configured:1", "secret", 3.0)
    monkeypatch.setenv("BNRECAL_SERVER", "127.0.0.1:8000")
    found = find_server()
    assert found is not None
    # The configuration's token is for the configuration's server only.
    assert (found.url, found.token, found.origin) == (URL, None, "BNRECAL_SERVER")
    monkeypatch.setenv("BNRECAL_TOKEN", "other")
    assert find_server("http://configured:1") == find_server("http://configured:1/")
    found = find_server("http://configured:1")
    assert found is not None
    assert found.token == "other"
    assert desk.run("list")[0] == Exit.OK


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('servr = "x"', "unknown key 'servr'; did you mean server?"),
        ("server = 3", "server is 3"),
        ("server = ", "not valid TOML"),
        ("zzz = 1", "the keys are server, token, retry_timeout"),
    ],
)
def test_faulty_configuration_is_one_line(desk: Desk, content: str, says: str) -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text(content)
    for words in (("list",), ("recalibrate", desk.model, desk.data), ("doctor",)):
        code, out, err = desk.run(*words)
        assert code == Exit.USAGE, words
        assert says in out + err


def test_local_overrides_the_environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_SERVER", URL)
    assert desk.run("recalibrate", desk.model, desk.data, "--quiet")[0] == Exit.OK
    assert len(desk.server.recalibrations) == 1
    code, _, err = desk.run("recalibrate", desk.model, desk.data, "--local")
    assert (code, "not an ONNX" in err) == (Exit.MODEL, True)  # b"good model" is not
    code, _, err = desk.run("recalibrate", desk.model, desk.data, "--local", "--server", URL)
    assert (code, "leave --server out" in err) == (Exit.USAGE, True)
    assert len(desk.server.recalibrations) == 1


def test_list_shows_the_newest_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNRECAL_SERVER", URL)
    assert desk.run("list") == (Exit.OK, "there are no recalibrations\n", "")
    desk.server.executor.verdict = None
    for count in (3, 4, 5):
        desk.recalibrate("--limit", count, "--quiet")
    ids = [one["id"] for one in desk.server.recalibrations]
    code, out, _ = desk.run("list", "--limit", 2)
    head, first, second, more = out.splitlines()
    assert (code, head.split()[:3]) == (Exit.OK, ["id", "state", "samples"])
    assert first.split()[:3] == [ids[2], "succeeded", "5"]
    assert second.split()[0] == ids[1]
    assert more == "and 1 more (--limit, --search)"
    assert desk.run("list", "--quiet")[1].split() == ids[::-1]
    assert desk.run("list", "--search", ids[0][3:12].upper(), "-q")[1].split() == [ids[0]]
    printed = json.loads(desk.run("list", "--json")[1])
    assert [one["id"] for one in printed["recalibrations"]] == ids[::-1]


REPORT = {
    "report": 2,
    "method": "exact",
    "estimator": {"name": "shrink"},
    "source_sha256": "a" * 64,
    "stream": {"samples": 90, "batches": 3},
    "layers": [
        {"name": "bn1", "status": "recalibrated", "drift": {"wasserstein": 0.5}},
        {"name": "bn2", "status": "recalibrated", "drift": {"wasserstein": 0.25}},
    ],
    "warnings": ["few samples"],
    "prediction_shift": {"agreement": 0.75, "entropy_change": -0.5},
    "evaluation": {"samples": 9, "error_before": 0.5, "error_after": 0.25},
    "verdict": {"code": "deploy", "sentence": "Deploy it.", "reasons": [], "next_steps": []},
}


def test_report_is_shown_again(desk: Desk) -> None:
    Path("run.json").write_text(json.dumps(REPORT))
    code, out, err = desk.run("report", "run.json", "-o", "again.json")
    assert (code, err) == (Exit.OK, "")
    assert out.startswith("DEPLOY  Deploy it.\n")
    assert "recalibrated 2 layers from 90 samples in 3 batches (exact, shrink)" in out
    assert json.loads(Path("again.json").read_text()) == REPORT
    assert json.loads(desk.run("report", "run.json", "--json")[1])["samples"] == 90


def test_report_of_a_server(desk: Desk) -> None:
    desk.recalibrate("--quiet")
    name = desk.server.id
    code, _, _ = desk.run("report", name, "--server", URL, "-o", "r.html", "-o", "r.json")
    assert (code, Path("r.html").read_text()) == (Exit.OK, "<h1>report</h1>")
    assert json.loads(Path("r.json").read_text())["report"] == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("none.json",), Exit.INPUT, "there is no file none.json"),
        (("bad.json",), Exit.INPUT, "cannot be read as a JSON report"),
        (("other.json",), Exit.INPUT, "not a report of a recalibration"),
        (("run.json", "-o", "run.json"), Exit.USAGE, "would be overwritten"),
        (("run.json", "-o", "run.pdf"), Exit.USAGE, ".html or .json"),
        (("run.json", "-o", "run.html"), Exit.INPUT, "install the version of bnrecal"),
        (("rc_9", "--server", URL), Exit.INPUT, "rc_9"),
    ],
)
def test_json_of_another_kind_is_not_a_report(
    desk: Desk, words: tuple[str, ...], code: Exit, says: str
) -> None:
    Path("bad.json").write_text("{")
    Path("other.json").write_text("[]")
    Path("run.json").write_text(json.dumps(REPORT))
    found, out, err = desk.run("report", *words)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert says in err


def test_compare_prints_what_differs(desk: Desk) -> None:
    other = {
        **REPORT,
        "estimator": {"name": "replace"},
        "source_sha256": "b" * 64,
        "layers": [{"name": "bn1", "status": "recalibrated", "drift": {"wasserstein": 2.0}}],
        "evaluation": None,
    }
    Path("a.json").write_text(json.dumps(REPORT))
    Path("b.json").write_text(json.dumps(other))
    code, out, _ = desk.run("compare", "a.json", "b.json")
    rows = {line[:16].strip(): line[16:].split() for line in out.splitlines()}
    assert code == Exit.OK
    assert rows["estimator"] == ["shrink", "replace"]
    assert rows["error after"] == ["25.0%"]
    assert rows["largest drift/σ"] == ["0.50", "2.00"]
    assert "warning: the two were made from different source models" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["bn1", "bn2"]
    same = desk.run("compare", "a.json", "a.json")[1]
    assert same.endswith("the statistics of every layer drift alike\n")
    printed = json.loads(desk.run("compare", "a.json", "b.json", "--json")[1])
    assert printed["layers"][0] == {"layer": "bn1", "a": 0.5, "b": 2.0}
    assert (printed["a"]["run"], printed["b"]["estimator"]) == ("a.json", "replace")


def test_doctor_reports_packages_sandbox_and_server(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = desk.run("doctor", "--json")
    found = {(one["group"], one["name"]): one for one in json.loads(out)["checks"]}
    assert code == Exit.OK
    assert found["packages", "onnxruntime"]["state"] == "ok"
    assert found["sandbox", "rlimits"]["text"] == "in force"
    assert found["sandbox", "no_new_privs"]["text"] == "in force"
    assert "in this process" in found["configuration", "server"]["text"]
    monkeypatch.setenv("BNRECAL_SERVER", URL)
    found_text = desk.run("doctor")[1]
    assert f"{URL} from BNRECAL_SERVER, without a token" in found_text
    assert "  ok       state " in found_text


def test_doctor_fails_with_the_first_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnrecal_client.client.Client", Client)
    words = ("doctor", "--quiet", "--server", "http://127.0.0.1:1", "--retry-timeout", "0.3")
    code, out, _ = desk.run(*words)
    assert code == Exit.UNREACHABLE
    group, line = out.splitlines()
    assert (group, "does not respond" in line) == ("server", True)


def test_doctor_names_what_is_missing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr(
        "bnrecal_client.cli.commands.doctor.find_spec",
        lambda name: None if name == "PIL" else find_spec(name),
    )
    code, out, _ = desk.run("doctor")
    assert code == Exit.OK
    (line,) = (line for line in out.splitlines() if "pillow" in line)
    assert line.split()[:2] == ["missing", "pillow"]
    assert line.endswith('for images as data: pip install "bnrecal[images]"')


def test_demo_shows_a_gain_and_leaves_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--json"]) == Exit.OK
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert errors["source"] < 0.02
    assert errors["before"] > 0.4
    assert errors["after"] < 0.1
    folder = tmp_path / "bnrecal-demo"
    assert len(np.load(folder / "new_domain.npy")) == 400
    onnx.checker.check_model(folder / "recalibrated.onnx")
    assert "<html" in (folder / "report.html").read_text("utf-8")
    words = [
        "recalibrate",
        "model.onnx",
        "test_images.npy",
        "--labels",
        "test_labels.npy",
        "--json",
    ]
    monkeypatch.chdir(folder)
    assert main(words) == Exit.OK
    found = json.loads(capsys.readouterr().out)["evaluation"]
    assert found["error_after"] < found["error_before"] - 0.3
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == Exit.USAGE
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == Exit.OK
    assert "_BNRECAL_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("bnrecal rec", ["recalibrate"]),
        ("bnrecal recalibrate --est", ["--estimator"]),
        ("bnrecal recalibrate --estimator sh", ["shrink"]),
        ("bnrecal recalibrate --preprocess im", ["imagenet"]),
        ("bnrecal recalibrate --method ", ["exact", "batch"]),
        ("bnrecal completion f", ["fish"]),
    ],
)
def test_completion_offers_commands_options_and_values(
    typed: str,
    offered: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = typed.split(" ")
    monkeypatch.setenv("_BNRECAL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert main([]) == 0
    assert [line.partition(",")[2] for line in capsys.readouterr().out.split()] == offered


LIGHT = """
import sys
from bnrecal_client.cli import main
main({words!r})
heavy = {{"numpy", "httpx", "anyio", "msgspec", "rich", "safetensors", "onnx", "bn_ops"}}
print("loaded", *sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["recalibrate", "--help"], ["completion", "zsh"], ["recalibrte"]],
)
def test_grammar_loads_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "loaded"


def test_light_test_can_fail(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=["inspect", str(tmp_path / "none.onnx")])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "numpy" in done.stdout.splitlines()[-1]


def test_closed_server_connections(desk: Desk) -> None:
    connected = partial(Client, transport=desk.server.transport)
    with connected(URL) as client:
        assert client.jobs() == ()
        assert client.readiness()["status"] == "ready"
        client.create(client.upload(MODEL).id)
        assert [one.state.state for one in client.jobs(search="OPEN")] == ["open"]


def test_report_is_drawn(desk: Desk) -> None:
    Path("run.json").write_text(json.dumps(full_report().to_json()))
    for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")):
        code, out, _ = desk.run("report", "run.json", "--plot", name)
        assert code == Exit.OK
        assert name in out
        assert Path(name).read_bytes().startswith(start)


def test_plot_refuses_other_formats_and_reports(desk: Desk) -> None:
    Path("run.json").write_text(json.dumps(full_report().to_json()))
    code, _, err = desk.run("report", "run.json", "--plot", "a.docx")
    assert code == Exit.USAGE
    assert ".svg, .png, .pdf" in err
    Path("old.json").write_text(json.dumps({"layers": [], "stream": {}}))
    code, _, err = desk.run("report", "old.json", "--plot", "a.svg")
    assert code == Exit.INPUT
    assert "install the version" in err
    assert not Path("a.svg").exists()
