"""Completion in real shells: what a key press inserts, not what a script would print."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
SECONDS = 60.0

START = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(bnrecal completion bash)"'),
    "zsh": (
        ["-f", "-i"],
        'autoload -Uz compinit; compinit -u -D; eval "$(bnrecal completion zsh)"',
    ),
}
COMPLETED = [
    ("bnrecal recal", "bnrecal recalibrate "),
    ("bnrecal recalibrate --estim", "bnrecal recalibrate --estimator "),
    ("bnrecal recalibrate --estimator shr", "bnrecal recalibrate --estimator shrink "),
    ("bnrecal recalibrate mo", "bnrecal recalibrate model.onnx "),
]


def installed(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"NO SHELL: {shell} is not installed (Debian: {shell})")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "model.onnx").touch()
    return {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "PS1": "> ",
    }


class Terminal:
    """A shell on a terminal, and what it has printed."""

    def __init__(self, words: list[str], environment: dict[str, str], folder: Path) -> None:
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            os.execve(words[0], words, environment)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + SECONDS
        while re.search(pattern, self.seen) is None:
            left = deadline - time.monotonic()
            assert left > 0, self.seen
            if select.select([self._terminal], [], [], left)[0]:
                self.seen += os.read(self._terminal, 4096).decode(errors="replace")

    def close(self) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._terminal)


@pytest.mark.parametrize("shell", START)
def test_tab_completes(shell: str, environment: dict[str, str], tmp_path: Path) -> None:
    options, script = START[shell]
    terminal = Terminal([installed(shell), *options], environment, tmp_path)
    try:
        terminal.type(f"{script}; echo re''ady\n")
        terminal.wait_for(r"\nready")
        for typed, completed in COMPLETED:
            terminal.seen = ""
            # The completed line is put between quotes and printed by the shell itself.
            terminal.type(f"{typed}\t\x01echo '=\x05='\n")
            # zsh takes the space after a word back when something else follows.
            terminal.wait_for(rf"\n={re.escape(completed.rstrip())} ?=")
    finally:
        terminal.close()


@pytest.mark.parametrize(("typed", "completed"), COMPLETED)
def test_fish_completes(
    typed: str, completed: str, environment: dict[str, str], tmp_path: Path
) -> None:
    script = f"bnrecal completion fish | source; complete --do-complete '{typed}'"
    done = subprocess.run(
        [installed("fish"), "--no-config", "--command", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert offered == [completed.rsplit(maxsplit=1)[-1]]
