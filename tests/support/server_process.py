"""A real server as a process of its own, which a test may kill and start again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Self


class ServerProcess:
    """One server over one data folder; it keeps its address over a restart.

    Attributes:
        url: where it listens.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start, and return when it listens."""
        environment = {**os.environ, "BNRECAL_WORKER_THREADS": "1"}
        words = ["-m", "service", "--port", str(self._port), "--data-dir", str(self._folder)]
        with (self._folder.parent / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, f"the server said {line!r}; see {self._folder.parent / 'server.log'}"
        self.url, self._port = found[0], int(found[1])

    def kill(self) -> None:
        """End it by SIGKILL, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._process = None
