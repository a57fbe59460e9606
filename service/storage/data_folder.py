"""The data folder: the lock that its servers share, and the file system it may be on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

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
# A migration of a large ledger copies its table of batches.
START_SECONDS = 60.0


class FolderLock:
    """The lock of a data folder: shared by its servers, exclusive while one migrates the ledger.

    The kernel releases it when the process ends.

    Attributes:
        exclusive: whether no other process uses the folder.
    """

    def __init__(self, handle: int, *, exclusive: bool) -> None:
        self._handle = handle
        self.exclusive = exclusive

    def share(self) -> None:
        """Let other servers use the folder as well."""
        fcntl.flock(self._handle, fcntl.LOCK_SH)
        self.exclusive = False


@contextmanager
def locked(folder: Path) -> Iterator[FolderLock]:
    """Hold the lock of a data folder: exclusive if no other process holds it, otherwise shared.

    Waits for a server that is starting: it holds the lock exclusively until its ledger is migrated.

    Raises:
        StartError: another process keeps the lock exclusively, such as a server of a version that
            shares its folder with no other, or the folder cannot be created.
    """
    with _lock_file(folder) as handle:
        yield FolderLock(handle, exclusive=_take(folder, handle))


@contextmanager
def try_exclusive(folder: Path) -> Iterator[bool]:
    """Hold the lock exclusively if no other process holds it; yield whether it is held."""
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(_lock_file(folder))
        except StartError:
            yield False
            return
        yield try_lock(handle)


@contextmanager
def _lock_file(folder: Path) -> Iterator[int]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StartError(f"the data folder {folder} cannot be used: it is a file") from error
    except OSError as error:
        raise StartError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        yield handle
    finally:
        os.close(handle)


def _take(folder: Path, handle: int) -> bool:
    """Take the lock; return whether it is exclusive."""
    until = monotonic() + START_SECONDS
    while True:
        if try_lock(handle):
            return True
        if try_lock(handle, fcntl.LOCK_SH):
            return False
        if monotonic() >= until:
            raise StartError(f"another process uses the data folder {folder} and does not share it")
        sleep(0.05)


def try_lock(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file unless another process holds its lock; return whether it is locked."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
