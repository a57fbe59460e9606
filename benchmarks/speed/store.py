"""The stored results: parts and networks that are measured again replace their predecessors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ResultStore"]


class ResultStore:
    """Results by part and network, each with where and when it was measured.

    Attributes:
        parts: name of a part → network → `about` and `found`.
    """

    parts: dict[str, dict[str, Any]]

    def __init__(self, path: Path) -> None:
        """Read the stored results; a missing file holds none."""
        self._path = path
        self.parts = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def replace(
        self, part: str, network: str, found: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """Store one result at once: an interrupted run keeps what it has measured."""
        self.parts.setdefault(part, {})[network] = {"about": dict(about), "found": dict(found)}
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(self.parts, indent=1) + "\n", encoding="utf-8")
