"""Progress: a bar on a terminal, nothing elsewhere, or a callback."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

from bnrecal_client import Progress
from bnrecal_client.progress import progress_display

if TYPE_CHECKING:
    import pytest

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


def test_pipe_shows_nothing() -> None:
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
