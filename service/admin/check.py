"""`check`: compare the rows of the ledger with the files, and check the ledger itself."""

from __future__ import annotations

import hashlib
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from service.repositories.usage import FileContent, expected_files
from service.storage.ledger.maintenance import MaintenanceLedger, open_ledger

FOLDERS = ("models", "recalibrations")


def present_files(folder: Path) -> Iterator[str]:
    """Yield the keys of all blobs in a data folder."""
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            if not path.is_dir():
                yield path.relative_to(folder).as_posix()


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="compare the ledger with the files")
    parser.add_argument("--sizes-only", action="store_true", help="do not read the files")
    parser.add_argument(
        "--recheck-seconds",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="time after which a difference is checked again (default: 1)",
    )
    parser.set_defaults(run=run)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Return the faults; a fault must be found twice.

    A running server stores a file before its row, and removes a row before its file.
    """
    digests = not args.sizes_only
    with open_ledger(folder, args.settings.ledger) as ledger:
        files, faults = _compare(folder, ledger, digests=digests)
        if faults:
            time.sleep(args.recheck_seconds)
            files, again = _compare(folder, ledger, digests=digests)
            faults = [fault for fault in faults if fault in again]
    return {"files": files, "digests": "compared" if digests else "not read", "faults": faults}


def faults_of(folder: Path, contents: Sequence[FileContent], *, digests: bool) -> list[str]:
    """Return the faults of one file with the contents that the ledger expects in it."""
    key = contents[0].key
    try:
        with (folder / key).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            found = (_fault_of(stream, size, one, digests=digests) for one in contents)
            return [fault for fault in found if fault is not None]
    except FileNotFoundError:
        return [f"{key} is missing"]
    except OSError as error:
        return [f"{key} cannot be read: {error.strerror}"]


def _fault_of(
    stream: BufferedReader, size: int, content: FileContent, *, digests: bool
) -> str | None:
    if content.start is None:
        if size != content.bytes:
            return f"{content.key} has {size} bytes, the ledger expects {content.bytes}"
        if digests and hashlib.file_digest(stream, "sha256").hexdigest() != content.sha256:
            return f"{content.key} has other content than the ledger expects"
        return None
    end = content.start + content.bytes
    if size < end:
        return f"{content.key} has {size} bytes, the ledger expects at least {end}"
    stream.seek(content.start)
    if digests and hashlib.sha256(stream.read(content.bytes)).hexdigest() != content.sha256:
        return f"{content.key} has other content at byte {content.start} than the ledger expects"
    return None


def _compare(folder: Path, ledger: MaintenanceLedger, *, digests: bool) -> tuple[int, list[str]]:
    faults = ledger.faults()
    expected = ledger.read(expected_files)
    for contents in expected.values():
        faults += faults_of(folder, contents, digests=digests)
    faults += [
        f"{key} has no row in the ledger"
        for key in sorted(present_files(folder))
        if key not in expected
    ]
    return len(expected), faults
