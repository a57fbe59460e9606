"""Run a local bnrecal server for the duration of a `with` block."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ServerNotStartedError", "local_server"]

START_LIMIT_S = 30.0  # the first start compiles bytecode, which is slow on a busy machine
STOP_LIMIT_S = 15.0
POLL_S = 0.02
LISTENING = re.compile(r"listening on (http://\S+)")


class ServerNotStartedError(Exception):
    """The server exited or did not start in time; the message includes its output."""


@contextmanager
def local_server() -> Iterator[str]:
    """Run a server on a free port with a temporary data folder, and yield its URL.

    Raises:
        ServerNotStartedError: the server exited or did not start in time.
    """
    with tempfile.TemporaryDirectory(prefix="bnrecal-demo-") as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "service", "--port", "0"]
        command += ["--data-dir", str(Path(folder) / "data")]
        # A file, not a pipe: the demo does not read while it works, and a full pipe blocks.
        with log.open("wb") as output:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield _wait_for_address(server, log)
        finally:
            _stop(server)


def _wait_for_address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        ended = server.poll() is not None
        written = log.read_text(encoding="utf-8", errors="replace")
        if found := LISTENING.search(written):
            return found.group(1)
        if ended:
            raise ServerNotStartedError(f"the server exited immediately:\n{written}")
        time.sleep(POLL_S)
    written = log.read_text(encoding="utf-8", errors="replace")
    raise ServerNotStartedError(
        f"the server did not start within {START_LIMIT_S:.0f} s:\n{written}"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
