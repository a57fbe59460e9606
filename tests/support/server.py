"""A real server process for tests, on a free port of loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY = "bnrecal is listening on "


def start_server(
    data: Path, *, port: int = 0, settings: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[str], str]:
    """Start a server and wait until it says where it listens.

    Args:
        data: its data folder.
        port: 0 takes a free one.
        settings: environment variables, such as `BNRECAL_TOKENS`.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(data.parent),
        "PYTHONPATH": str(ROOT),
        **(settings or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--port", str(port), "--data-dir", str(data)],
        cwd=data.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(READY):
        process.kill()
        process.wait()
        raise AssertionError(f"the server did not start: {line!r}")
    return process, line.removeprefix(READY).strip()


def stop_server(process: subprocess.Popen[str]) -> int:
    """Ask a server to stop, as a person would with Ctrl-C; return its exit status."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode


@contextmanager
def running_server(data: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server for a test; yields its address."""
    process, url = start_server(data, settings=settings)
    try:
        yield url
    finally:
        stop_server(process)
