"""A server in a separate process, which a test may kill and restart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil


class ServerProcess:
    """A server of one data folder; it keeps its address across restarts.

    Attributes:
        url: URL of the server.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, object] | None = None,
        module: str = "service",
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Create a stopped server.

        Args:
            folder: the data folder.
            settings: settings by name.
            module: module to run with `python -m`.
            log: path of the log, by default next to the data folder.
            environment: further environment variables.
        """
        self._folder = folder
        self._module = module
        self._log = log or folder.parent / "server.log"
        self._settings = {f"BNRECAL_{name.upper()}": str(x) for name, x in (settings or {}).items()}
        self._environment = environment or {}
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self.spawn()
        self.await_ready()

    def spawn(self) -> None:
        """Start the server without waiting."""
        fixed = {"BNRECAL_WORKER_THREADS": "1", **self._settings, **self._environment}
        environment = {**os.environ, **fixed}
        words = ["-m", self._module, "--port", str(self._port), "--data-dir", str(self._folder)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def await_ready(self) -> None:
        """Wait until the server listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, f"the server printed {line!r}; see {self._log}"
        self.url, self._port = found[0], int(found[1])

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[psutil.Process]:
        """Return the running worker processes."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._end()

    def stop(self) -> int:
        """Terminate the server and return its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    def _end(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        status = self._process.wait(timeout=60)
        self._process.stdout.close()
        self._process = None
        return status
