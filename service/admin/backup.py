"""`backup`: copy a data folder, also while a server uses it.

The ledger is copied first, as one consistent view, and then the files that it refers to, each
checked against its digest. Files never change, but a run that ends in the meantime removes its
batches; then the ledger is copied again together with missing files. A server can be started on the
copy. It has no lock and no drafts.
"""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin.blob_files import LocalFiles
from service.admin.check import faults_of
from service.errors import RequestInvalidError, StorageFailedError
from service.repositories.usage import expected_files
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.maintenance import MaintenanceLedger, open_ledger

# Further attempts copy only missing files.
MAX_ATTEMPTS = 10


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("backup", help="copy everything, while the server runs")
    parser.add_argument("target", type=Path, metavar="TARGET", help="an empty or new folder")
    parser.set_defaults(run=run, needs_folder=True)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Copy a data folder.

    Raises:
        RequestInvalidError: the target is not empty, or the files are in an object store.
        StorageFailedError: a file is damaged or cannot be copied.
    """
    if args.settings.blobs:
        raise RequestInvalidError(
            f"the files are in {args.settings.blobs}: copy the ledger first and the bucket after it"
        )
    target: Path = args.target
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(target.iterdir()):
            raise RequestInvalidError(f"{target} is not empty")
        with open_ledger(folder, args.settings.ledger) as ledger:
            files = _copy(folder, ledger, target)
        _sync(target)
    except OSError as error:
        raise StorageFailedError(f"the copy failed: {error.strerror}") from error
    size = sum(one.bytes for contents in files.values() for one in contents)
    return {"backup": str(target), "files": len(files), "bytes": size}


def _copy(folder: Path, ledger: MaintenanceLedger, target: Path) -> dict[str, list[BlobContent]]:
    faults: list[str] = []
    for _ in range(MAX_ATTEMPTS):
        expected = ledger.copy_to(target, expected_files)
        faults = [
            fault
            for contents in expected.values()
            for fault in _copy_file(folder, target, contents)
        ]
        if not faults:
            _prune(target, expected)
            return expected
    raise StorageFailedError(f"{len(faults)} files cannot be copied, the first: {faults[0]}")


def _copy_file(folder: Path, target: Path, contents: list[BlobContent]) -> list[str]:
    """Copy one file unless it is already copied; return its faults.

    A pack that has grown since an earlier attempt is copied again.
    """
    key = contents[0].key
    copied = target / key
    if copied.exists() and not faults_of(LocalFiles(target), contents, digests=False):
        return []
    _make_folder(target, copied.parent)
    draft = copied.with_name(f"{copied.name}.part")
    try:
        shutil.copyfile(folder / key, draft)
    except FileNotFoundError:
        return [f"{key} is missing"]
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(copied)
    faults = faults_of(LocalFiles(target), contents, digests=True)
    if faults:
        copied.unlink()
    return faults


def _make_folder(target: Path, folder: Path) -> None:
    """Create a folder below the target and its parents, accessible to the owner only."""
    if folder != target:
        _make_folder(target, folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)


def _prune(target: Path, expected: dict[str, list[BlobContent]]) -> None:
    """Remove files that an earlier attempt copied and the last ledger does not refer to."""
    for key in list(LocalFiles(target).keys()):
        if key not in expected:
            (target / key).unlink()


def _sync(target: Path) -> None:
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
