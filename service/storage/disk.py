"""How the server reaches its disk; both ways are replaced where a test lets them fail."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.storage.blobs.os_calls import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The calls of the blobs, and the name of SQLite's layer below the ledger (None: its own)."""

    system: System = field(default_factory=System)
    vfs: str | None = None
