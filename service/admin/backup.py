"""`backup`: a data folder that a server can be started on, taken while another one runs.

The ledger is copied first, as one consistent view; then the files that it names, each compared with
its digest. Files never change, but a run that ends meanwhile takes its batches away: then the
ledger is copied again, and what is missing with it. The copy has no lock and no drafts.
"""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import apsw

from service.admin import holdings
from service.admin.check import faults_of
from service.admin.holdings import Held
from service.admin.ledger import AdminLedger, opened
from service.errors import RequestInvalidError, StorageFailedError
from service.storage.ledger.connection import SqliteTransaction, make_private
from service.storage.ledger.filesystem_check import LEDGER_FILE

# Each further try copies only what is missing.
TRIES = 10


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("backup", help="copy everything, while the server runs")
    parser.add_argument("target", type=Path, metavar="TARGET", help="an empty or new folder")
    parser.set_defaults(run=run)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Copy a data folder.

    Raises:
        RequestInvalidError: the target holds something.
        StorageFailedError: a file is damaged or cannot be copied.
    """
    target: Path = args.target
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(target.iterdir()):
            raise RequestInvalidError(f"{target} is not empty")
        with opened(folder) as ledger:
            files = _copy(folder, ledger, target)
        _sync(target)
    except OSError as error:
        raise StorageFailedError(f"the copy failed: {error.strerror}") from error
    size = sum(one.bytes for held in files.values() for one in held)
    return {"backup": str(target), "files": len(files), "bytes": size}


def _copy(folder: Path, ledger: AdminLedger, target: Path) -> dict[str, list[Held]]:
    faults: list[str] = []
    for _ in range(TRIES):
        wanted = _copy_ledger(ledger, target / LEDGER_FILE)
        faults = [fault for held in wanted.values() for fault in _copy_file(folder, target, held)]
        if not faults:
            _prune(target, wanted)
            return wanted
    raise StorageFailedError(f"{len(faults)} files cannot be copied, the first: {faults[0]}")


def _copy_ledger(ledger: AdminLedger, path: Path) -> dict[str, list[Held]]:
    path.unlink(missing_ok=True)
    make_private(path)
    copy = apsw.Connection(str(path))
    try:
        with copy.backup("main", ledger.connection, "main") as backup:
            backup.step()  # all pages at once: one consistent view
        # One file instead of three; the server turns WAL on again.
        copy.execute("PRAGMA journal_mode = DELETE")
        return holdings.expected(SqliteTransaction(copy))
    finally:
        copy.close()


def _copy_file(folder: Path, target: Path, held: list[Held]) -> list[str]:
    """Copy one file unless it is there; return what is wrong with it.

    A pack may have grown since an earlier try copied it: then it is copied again.
    """
    key = held[0].key
    place = target / key
    if place.exists() and not faults_of(target, held, digests=False):
        return []
    _make_folder(target, place.parent)
    draft = place.with_name(f"{place.name}.part")
    try:
        shutil.copyfile(folder / key, draft)
    except FileNotFoundError:
        return [f"{key} is missing"]
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(place)
    faults = faults_of(target, held, digests=True)
    if faults:
        place.unlink()
    return faults


def _make_folder(target: Path, folder: Path) -> None:
    """Make a folder below the target, and those between them, for the owner alone."""
    if folder != target:
        _make_folder(target, folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)


def _prune(target: Path, wanted: dict[str, list[Held]]) -> None:
    """Remove what an earlier try has copied and the last ledger no longer knows."""
    for key in list(holdings.present(target)):
        if key not in wanted:
            (target / key).unlink()


def _sync(target: Path) -> None:
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
