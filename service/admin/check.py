"""`check`: whether every row has its file, every file its row, and the ledger is whole."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin import holdings
from service.admin.holdings import Held
from service.admin.ledger import AdminLedger, opened
from service.checksums import sha256_of

# A running server renames a file before its row is committed, and removes a row before its file;
# what is still wrong after so long is wrong.
SETTLE_SECONDS = 1.0


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="compare the ledger with the files")
    parser.add_argument("--sizes-only", action="store_true", help="do not read the files")
    parser.set_defaults(run=run)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Look twice where something seems wrong, and return what stays so."""
    digests = not args.sizes_only
    with opened(folder) as ledger:
        files, faults = _look(folder, ledger, digests=digests)
        if faults:
            time.sleep(SETTLE_SECONDS)
            files, again = _look(folder, ledger, digests=digests)
            faults = [fault for fault in faults if fault in again]
    return {"files": files, "digests": "compared" if digests else "not read", "faults": faults}


def fault_of(folder: Path, held: Held, *, digests: bool) -> str | None:
    """Return what is wrong with one file; None when nothing is."""
    path = folder / held.key
    try:
        size = path.stat().st_size
        if size != held.bytes:
            return f"{held.key} has {size} bytes, the ledger says {held.bytes}"
        if digests and sha256_of(path) != held.sha256:
            return f"{held.key} has another content than the ledger says"
    except FileNotFoundError:
        return f"{held.key} is missing"
    except OSError as error:
        return f"{held.key} cannot be read: {error.strerror}"
    return None


def _look(folder: Path, ledger: AdminLedger, *, digests: bool) -> tuple[int, list[str]]:
    faults = [
        f"SQLite: {row[0]}"
        for row in ledger.connection.execute("PRAGMA integrity_check")
        if row[0] != "ok"
    ]
    faults += [
        f"SQLite: a row of {row[0]} refers to a {row[2]} that is not there"
        for row in ledger.connection.execute("PRAGMA foreign_key_check")
    ]
    wanted = ledger.read(holdings.expected)
    found = (fault_of(folder, held, digests=digests) for held in wanted.values())
    faults += [fault for fault in found if fault is not None]
    faults += [
        f"{key} has no row in the ledger"
        for key in sorted(holdings.present(folder))
        if key not in wanted
    ]
    return len(wanted), faults
