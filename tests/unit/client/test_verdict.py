"""The verdict of a report: typed in the client, first in the command, with an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bn_ops
from bnrecal_client import OptionError, Result, Verdict, VerdictError, VerdictReason
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.cli.output import summary, summary_lines
from tests.support.client_server import MODEL, ClientServer
from tests.support.played_clients import URL, Calls, stream
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]

REJECTED: dict[str, Any] = {
    "code": "do-not-deploy",
    "sentence": "Keep the source model: no candidate predicts better.",
    "reasons": [{"code": "no-gain", "text": "The best gain is 0.01 ± 0.02."}],
    "next_steps": ["Label 50 samples and pass them as labels."],
}


def result(report: Any) -> Result:
    return Result(
        recalibration_id="rc_1",
        model=b"m",
        unfolded=None,
        report=report,
        report_html="",
        statistics={},
    )


def test_verdict_of_a_report_is_a_value() -> None:
    assert result({"verdict": REJECTED}).verdict == Verdict(
        code="do-not-deploy",
        sentence="Keep the source model: no candidate predicts better.",
        reasons=(VerdictReason(code="no-gain", text="The best gain is 0.01 ± 0.02."),),
        next_steps=("Label 50 samples and pass them as labels.",),
    )


def test_client_reads_every_verdict_of_library() -> None:
    for code in bn_ops.VerdictCode:
        written = bn_ops.Verdict(
            code=code,
            sentence="Deploy.",
            reasons=tuple(bn_ops.VerdictReason(code=r, text="t") for r in bn_ops.ReasonCode),
            next_steps=("Wait.",),
        )
        read = result({"verdict": written.to_json()}).verdict
        assert read is not None
        assert (read.code, read.sentence, read.next_steps) == (code, "Deploy.", ("Wait.",))
        assert [reason.code for reason in read.reasons] == list(bn_ops.ReasonCode)
        assert read.is_rejection is (code is bn_ops.VerdictCode.DO_NOT_DEPLOY)


@pytest.mark.parametrize("report", [{}, {"verdict": None}, {"verdict": "good"}, {"verdict": {}}])
def test_report_without_readable_verdict_has_none(report: dict[str, Any]) -> None:
    assert result(report).verdict is None


def test_rejected_result_is_returned_by_default(client: Calls, server: ClientServer) -> None:
    server.executor.verdict = REJECTED
    found = client.recalibrate(MODEL, stream(), progress=False)
    assert found.verdict is not None
    assert found.verdict.is_rejection


def test_rejected_result_is_raised_on_request(client: Calls, server: ClientServer) -> None:
    server.executor.verdict = REJECTED
    with pytest.raises(VerdictError, match="Keep the source model") as caught:
        client.recalibrate(MODEL, stream(), progress=False, on_verdict="raise")
    assert caught.value.code == "do-not-deploy"
    assert caught.value.recalibration_id == server.id
    assert caught.value.result is not None
    assert caught.value.result.model == b"folded " + MODEL


@pytest.mark.parametrize("code", ["deploy", "check-with-labels", "of-a-newer-server"])
def test_other_verdicts_are_never_raised(client: Calls, server: ClientServer, code: str) -> None:
    server.executor.verdict = {**REJECTED, "code": code}
    found = client.recalibrate(MODEL, stream(), progress=False, on_verdict="raise")
    assert found.verdict is not None
    assert found.verdict.code == code


def test_unknown_reaction_to_verdict_is_an_error(client: Calls, server: ClientServer) -> None:
    with pytest.raises(OptionError, match="on_verdict is 'warn'"):
        client.recalibrate(MODEL, stream(), on_verdict="warn")
    assert server.transport.requests == []


def test_command_prints_verdict_first(desk: Desk) -> None:
    desk.server.executor.verdict = {**REJECTED, "code": "check-with-labels"}
    code, out, err = desk.recalibrate()
    assert (code, err) == (Exit.OK, "")
    assert out.splitlines()[:4] == [
        "CHECK WITH LABELS  Keep the source model: no candidate predicts better.",
        "  because: The best gain is 0.01 ± 0.02.",
        "  next: Label 50 samples and pass them as labels.",
        "",
    ]
    assert Path("model.recalibrated.onnx").is_file()


def test_rejected_model_is_not_written(desk: Desk) -> None:
    desk.server.executor.verdict = REJECTED
    words = ("--unfolded", "u.onnx", "--report", "r.json", "--statistics", "s.safetensors")
    code, out, err = desk.recalibrate(*words)
    assert code == 8
    assert out.startswith("DO NOT DEPLOY  Keep the source model")
    assert "do-not-deploy (--force writes it): model.recalibrated.onnx, u.onnx\n" in err
    assert sorted(path.name for path in desk.folder.iterdir()) == [
        *("model.onnx", "r.json", "s.safetensors", "x.npy")
    ]


def test_force_writes_a_rejected_model(desk: Desk) -> None:
    desk.server.executor.verdict = REJECTED
    code, out, err = desk.recalibrate("--force")
    assert (code, err) == (Exit.DO_NOT_DEPLOY, "")
    assert out.startswith("DO NOT DEPLOY")
    assert Path("model.recalibrated.onnx").read_bytes() == b"folded " + MODEL


def test_json_shows_verdict_and_omitted_files(desk: Desk) -> None:
    desk.server.executor.verdict = REJECTED
    code, out, _ = desk.recalibrate("--json", "-o", "f.onnx")
    printed = json.loads(out)
    assert (code, printed["verdict"]) == (Exit.DO_NOT_DEPLOY, REJECTED)
    assert printed["files"] == []
    assert printed["withheld"] == [{"kind": "model", "path": "f.onnx"}]


def test_quiet_reports_that_no_model_was_written(desk: Desk) -> None:
    desk.server.executor.verdict = REJECTED
    code, out, err = desk.recalibrate("--quiet")
    assert (code, out, err.count("\n")) == (Exit.DO_NOT_DEPLOY, "", 1)


def test_fetch_obeys_the_verdict(desk: Desk) -> None:
    desk.server.executor.verdict = REJECTED
    desk.recalibrate("--quiet")
    name = desk.server.id
    words = ("fetch", name, "--server", URL, "--quiet")
    assert desk.run(*words)[0] == Exit.DO_NOT_DEPLOY
    assert not Path(f"{name}.onnx").exists()
    assert desk.run(*words, "--force")[0] == Exit.DO_NOT_DEPLOY
    assert Path(f"{name}.onnx").is_file()


def test_badge_is_colored_on_terminal_only(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = summary(result({"verdict": REJECTED}), ())
    assert summary_lines(found)[0].startswith("\x1b[31m\x1b[1mDO NOT DEPLOY\x1b[0m  ")
    desk.server.executor.verdict = REJECTED
    assert desk.recalibrate()[1].startswith("DO NOT DEPLOY  ")
    monkeypatch.setattr("click._compat.isatty", lambda _: True)
    assert desk.recalibrate("-o", "b.onnx")[1].startswith("\x1b[31m\x1b[1mDO NOT DEPLOY")
    monkeypatch.setenv("NO_COLOR", "1")
    assert desk.recalibrate("-o", "c.onnx")[1].startswith("DO NOT DEPLOY  ")
    assert "\x1b" not in capsys.readouterr().err
