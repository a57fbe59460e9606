"""Progress: a bar on a terminal, an output in a notebook, lines elsewhere, or a callback."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bnrecal_client import Progress
from bnrecal_client.progress import Estimate, progress_display

STEPS = """
from bnrecal_client import Progress
from bnrecal_client.progress import progress_display
with progress_display(None) as notify:
    for step in (
        Progress(phase="sending", done=3, total=9),
        Progress(phase="waiting", done=0, note="connection refused"),
        Progress(phase="measuring", done=1, total=None),
        Progress(phase="a phase of a newer server [bold]", done=1, total=2),
    ):
        notify(step)
print("the result")
"""


def test_terminal_shows_each_phase() -> None:
    reading, writing = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", STEPS],
        stdout=subprocess.PIPE,
        stderr=writing,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(writing)
    out, _ = process.communicate(timeout=60)
    shown = read_all(reading)
    assert out == b"the result\n"
    assert process.returncode == 0
    for text in (
        "sending batches",
        "3/9",
        "waiting for the server (connection refused)",
        "measuring layers",
        # A server's words are shown as they are, not read as markup.
        "a phase of a newer server [bold]",
    ):
        assert text in shown
    # Erase-line: the bar is removed, only the result stays.
    assert "\x1b[2K" in shown.split("newer server")[-1]


def read_all(handle: int) -> str:
    found = b""
    try:
        while piece := os.read(handle, 65536):
            found += piece
    except OSError:
        # Linux says EIO when the other end of a pseudo terminal is closed.
        pass
    finally:
        os.close(handle)
    return found.decode("utf-8")


def test_short_run_prints_nothing_without_a_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (b"the result\n", b"")


def test_callback_and_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    step = Progress(phase="sending", done=1, total=2)
    for wanted in (False, seen.append):
        with progress_display(wanted) as notify:
            notify(step)
    assert seen == [step]
    assert capsys.readouterr() == ("", "")


class Clock:
    """Seconds that a test moves forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


PHASES = ("sampling", "reading", "measuring", "choosing", "folding", "verifying")


def test_lines_are_printed_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_display(None, samples=900, clock=clock) as notify:
        for done in range(61):
            clock.now += 0.5
            notify(Progress(phase="measuring", done=done, total=60))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, len(lines)) == ("", 6)
    assert all(line.startswith("bnrecal: ") for line in lines)
    assert "measuring layers  735/900 samples" in lines[4]
    assert " left" in lines[4]


def test_samples_are_the_unit_where_they_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_display(None, samples=100, clock=clock) as notify:
        for phase, total in (("reading", 4), ("folding", 4), ("sending", None)):
            clock.now += 6
            notify(Progress(phase=phase, done=2, total=total))
    first, second, third = capsys.readouterr().err.splitlines()
    assert "reading batches  50/100 samples" in first
    assert "  folding" in second
    assert "2/4" not in second
    assert "sending batches  2 batches" in third


def run_at_constant_rate(estimate: Estimate, clock: Clock, seconds: float) -> list[float]:
    """Run the phases with their usual shares; return the error of each estimate in seconds."""
    from bnrecal_client.progress import _SHARES

    total = sum(_SHARES[phase] for phase in PHASES)
    started, errors = clock.now, []
    for phase in PHASES:
        for step in range(50):
            clock.now += seconds * _SHARES[phase] / total / 50
            estimate.update(Progress(phase=phase, done=step + 1, total=50))
            left = estimate.seconds_left
            if left is not None:
                errors.append(left - (started + seconds - clock.now))
    return errors


def test_estimate_is_right_at_a_constant_rate() -> None:
    clock = Clock()
    errors = run_at_constant_rate(Estimate(clock), clock, 60.0)
    assert len(errors) > 100
    # The clock starts with the first of 50 steps of the first phase.
    assert max(map(abs, errors)) < 1.0


def test_estimate_does_not_jump_at_a_changed_rate() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    shown, steps = [], 0
    for phase in PHASES[:4]:
        # Measuring takes five times as long as usual.
        for step in range(100):
            clock.now += 0.5 if phase == "measuring" else 0.1
            estimate.update(Progress(phase=phase, done=step + 1, total=100))
            steps += 1
            if estimate.seconds_left is not None:
                shown.append((clock.now, estimate.seconds_left))
    assert steps == 400
    for (before, left), (after, right) in pairwise(shown):
        passed = after - before
        # The end moves by at most a share of what the new extrapolation says.
        assert abs((right + passed) - left) <= max(1.0, 0.1 * left), (before, left, right)


def test_share_never_shrinks_and_ends_at_all() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    shares = []
    for phase, done, total in (
        ("measuring", 5, 10),
        ("reading", 1, 2),  # an earlier phase, reported late
        ("waiting", 3, None),
        ("a new phase", 1, 2),
        ("measuring", 10, 10),
        ("verifying", 1, 1),
        ("fetching", 1, 1),
    ):
        estimate.update(Progress(phase=phase, done=done, total=total))
        shares.append(estimate.share)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


class ZMQInteractiveShell:
    """Has the name of the shell that runs in a notebook's kernel."""


def test_notebook_output_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            shown.append(data["text/plain"])

    def display(data: dict[str, str], **options: Any) -> Handle:
        assert options == {"raw": True, "display_id": True}
        shown.append(data["text/plain"])
        return Handle()

    ipython = ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    with progress_display(None, samples=10) as notify:
        notify(Progress(phase="measuring", done=1, total=2))
        notify(Progress(phase="measuring", done=1, total=2))
    assert len(shown) == 3
    assert "measuring layers  5/10 samples" in shown[1]
    assert shown[2].startswith("done in ")
    assert capsys.readouterr() == ("", "")


def test_terminal_of_ipython_is_not_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with progress_display(None) as notify:
        notify(Progress(phase="measuring", done=1, total=2))
    assert capsys.readouterr() == ("", "")
