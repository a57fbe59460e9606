"""`check`: compare the rows of the ledger with the files, and check the ledger itself."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.admin.blob_files import BlobFiles, open_files
from service.repositories import batches, recalibrations
from service.repositories.usage import expected_files
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.maintenance import MaintenanceLedger, open_ledger


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
    parser.set_defaults(run=run, needs_folder=True)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Return the faults; a fault must be found twice.

    A running server stores a file before its row, and removes a row before its file.
    """
    digests = not args.sizes_only
    blobs = open_files(args.settings)
    with open_ledger(folder, args.settings.ledger) as ledger:
        files, faults = _compare(blobs, ledger, digests=digests)
        if faults:
            time.sleep(args.recheck_seconds)
            files, again = _compare(blobs, ledger, digests=digests)
            faults = [fault for fault in faults if fault in again]
    return {"files": files, "digests": "compared" if digests else "not read", "faults": faults}


def faults_of(files: BlobFiles, contents: Sequence[BlobContent], *, digests: bool) -> list[str]:
    """Return the faults of one blob with the contents that the ledger expects in it."""
    key = contents[0].key
    try:
        size = files.size(key)
        found = [_fault_of(size, one) for one in contents]
        if digests and not any(found):
            pairs = zip(contents, files.digests(contents), strict=True)
            found = [_other_content(one) for one, digest in pairs if digest != one.sha256]
    except FileNotFoundError:
        return [f"{key} is missing"]
    except OSError as error:
        return [f"{key} cannot be read: {error.strerror}"]
    return [fault for fault in found if fault is not None]


def _fault_of(size: int, content: BlobContent) -> str | None:
    if content.start is None:
        if size != content.bytes:
            return f"{content.key} has {size} bytes, the ledger expects {content.bytes}"
        return None
    end = content.start + content.bytes
    if size < end:
        return f"{content.key} has {size} bytes, the ledger expects at least {end}"
    return None


def _other_content(content: BlobContent) -> str:
    at = "" if content.start is None else f" at byte {content.start}"
    return f"{content.key} has other content{at} than the ledger expects"


def _compare(
    blobs: BlobFiles, ledger: MaintenanceLedger, *, digests: bool
) -> tuple[int, list[str]]:
    faults = ledger.faults()
    expected = ledger.read(expected_files)
    # A server that was stopped while it removed them removes the rest at its next start.
    removed = tuple(
        f"{batches.folder(found)}/" for found in ledger.read(recalibrations.with_data_to_remove)
    )
    for contents in expected.values():
        faults += faults_of(blobs, contents, digests=digests)
    faults += [
        f"{key} has no row in the ledger"
        for key in sorted(blobs.keys())
        if key not in expected and not key.startswith(removed)
    ]
    return len(expected), faults
