"""The data folder: its lock, which keeps it to one server, and the file system it may be on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import StartError

LEDGER_FILE = "ledger.sqlite3"
NETWORK_TYPES = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse.sshfs",
        "fuse.glusterfs",
    }
)
MOUNTS = Path("/proc/self/mountinfo")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder; the kernel releases it when the process ends.

    Raises:
        StartError: another process holds it, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"another server uses the data folder {folder}") from error
        yield
    finally:
        os.close(handle)


@contextmanager
def try_exclusive(folder: Path) -> Iterator[bool]:
    """Hold the lock if no other process does; yield whether it is held."""
    lock = exclusive(folder)
    try:
        lock.__enter__()
    except StartError:
        yield False
        return
    try:
        yield True
    finally:
        lock.__exit__(None, None, None)


def file_system_type(folder: Path, mountinfo: Iterable[str]) -> str | None:
    """Return the type of the file system that holds a folder, from the lines of mountinfo(5)."""
    best: tuple[int, str] | None = None
    target = folder.resolve()
    for line in mountinfo:
        before, _, behind = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        # A later line with the same mount point hides the earlier one.
        if target.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), behind.split()[0])
    return None if best is None else best[1]


def reject_network_file_system(folder: Path) -> None:
    """Reject a folder on a network file system: SQLite's locks and WAL are not reliable there.

    Passes where the system has no mountinfo.

    Raises:
        StartError: the folder is on one.
    """
    if not MOUNTS.exists():
        return
    kind = file_system_type(folder, MOUNTS.read_text(encoding="utf-8").splitlines())
    if kind in NETWORK_TYPES:
        raise StartError(
            f"{folder} is on {kind}; the ledger needs a local file system (BNRECAL_DATA_DIR)"
        )
