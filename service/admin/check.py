"""`check`: whether every row has its file, every file its row, and the ledger is whole."""

from __future__ import annotations

import hashlib
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from service.admin import holdings
from service.admin.holdings import Held
from service.admin.ledger import AdminLedger, opened

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


def faults_of(folder: Path, held: Sequence[Held], *, digests: bool) -> list[str]:
    """Return what is wrong with one file and the things that must lie in it."""
    key = held[0].key
    try:
        with (folder / key).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            found = (_fault_of(stream, size, one, digests=digests) for one in held)
            return [fault for fault in found if fault is not None]
    except FileNotFoundError:
        return [f"{key} is missing"]
    except OSError as error:
        return [f"{key} cannot be read: {error.strerror}"]


def _fault_of(stream: BufferedReader, size: int, held: Held, *, digests: bool) -> str | None:
    if held.start is None:
        if size != held.bytes:
            return f"{held.key} has {size} bytes, the ledger says {held.bytes}"
        if digests and hashlib.file_digest(stream, "sha256").hexdigest() != held.sha256:
            return f"{held.key} has another content than the ledger says"
        return None
    end = held.start + held.bytes
    if size < end:
        return f"{held.key} has {size} bytes, the ledger says {end} at least"
    stream.seek(held.start)
    if digests and hashlib.sha256(stream.read(held.bytes)).hexdigest() != held.sha256:
        return f"{held.key} has another content from byte {held.start} on than the ledger says"
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
    for held in wanted.values():
        faults += faults_of(folder, held, digests=digests)
    faults += [
        f"{key} has no row in the ledger"
        for key in sorted(holdings.present(folder))
        if key not in wanted
    ]
    return len(wanted), faults
