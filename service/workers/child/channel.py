"""Answers of a worker: JSON lines on a private file descriptor.

Standard output is redirected to standard error first, so that the output of a library is not
mistaken for an answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

STDOUT = 1
STDERR = 2


class Channel:
    """Writes one JSON object per line."""

    def __init__(self) -> None:
        self._handle = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
        self._layers: list[tuple[str, float]] = []
        self._layers_total: int | None = None

    def send(self, event: str, content: bytes = b"", /, **members: object) -> None:
        """Send an event, and some bytes after it."""
        if content:
            members["bytes"] = len(content)
        line = json.dumps({"event": event, **members}).encode() + b"\n"
        for data in (line, content):
            left = memoryview(data)
            while left:
                left = left[os.write(self._handle, left) :]

    def progress(self, phase: str, done: int, total: int | None) -> None:
        """Report progress, with the layers that `layer` has noted."""
        self.send("progress", phase=phase, done=done, total=total, **self.take_layers())

    def take_layers(self) -> dict[str, Any]:
        """Return the layers that `layer` has noted since the last call, as members of an event."""
        layers, self._layers = self._layers, []
        return {"layers": layers, "layers_total": self._layers_total}

    def layer(self, name: str, drift: float, total: int) -> None:
        """Note a measured layer; it is sent with the next progress."""
        self._layers.append((name, drift))
        self._layers_total = total

    def done(self, result: Mapping[str, Any]) -> None:
        """Report success."""
        self.send("done", result=result)

    def refuse(self, code: str, message: str, details: Mapping[str, Any]) -> None:
        """Report that the task is refused, with the code of bn_ops."""
        self.send("refused", code=code, message=message, details=details)
