"""Reject network file systems: SQLite's locks and WAL are not reliable on them."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Reject a folder on a network file system; pass when the system has no mountinfo.

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
