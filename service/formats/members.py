"""Limits for the members of every archive: their number, names and sizes.

The check of names prevents path traversal: `service.workers.child.convert` writes the members
of a model to a folder under their names, and a name such as `../x` would leave it. Batches are read
without being unpacked, but such a name is refused there as well: it has no place in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from service.errors import BatchMalformedError, BatchUnpackedTooLargeError

MAX_MEMBERS = 100_000
MAX_NAME = 1024
_SHOWN = 200
ARCHIVES = frozenset(
    {".zip", ".npz", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive.

    Attributes:
        name: the name in the archive.
        size: size in bytes according to the archive.
        open: opens the member; the stream yields at most `size` bytes.
        guard: converts what a reader raises on a malformed archive to this package's error.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    guard: Callable[[], AbstractContextManager[None]]

    def read(self) -> bytes:
        """Return the content.

        Raises:
            BatchMalformedError: the member does not have the size that the archive gives.
        """
        with self.guard(), self.open() as stream:
            content = stream.read(self.size)
            if len(content) != self.size or stream.read(1):
                raise BatchMalformedError(
                    f"the size of the member {shown(self.name)} differs from the archive's",
                    member=shown(self.name),
                )
        return content


class Inventory:
    """Counts members as they are listed and enforces the limits."""

    def __init__(self, limit_bytes: int, *, max_members: int = MAX_MEMBERS) -> None:
        self._limit_bytes = limit_bytes
        self._max_members = max_members
        self._names: set[str] = set()
        self._bytes = 0

    def add(self, name: str, size: int) -> None:
        """Count one more member.

        Raises:
            BatchMalformedError: the name is unsafe, duplicated, or that of an archive.
            BatchUnpackedTooLargeError: too many members, or too many bytes in total.
        """
        _check_name(name)
        if name in self._names:
            raise refusal(name, "is duplicated in the archive")
        self._names.add(name)
        if len(self._names) > self._max_members:
            raise BatchUnpackedTooLargeError(
                f"the archive has more than {self._max_members} members: send several batches",
                limit=self._max_members,
            )
        self._bytes += size
        if self._bytes > self._limit_bytes:
            raise BatchUnpackedTooLargeError(
                f"the archive unpacks to more than {self._limit_bytes} bytes: "
                "send several smaller batches",
                limit=self._limit_bytes,
            )


def refusal(name: str, fault: str) -> BatchMalformedError:
    """Return the error for one member."""
    return BatchMalformedError(f"the member {shown(name)} {fault}", member=shown(name))


def shown(name: str) -> str:
    """Return an untrusted name, shortened and quoted for messages and logs."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if not name or len(name) > MAX_NAME or not name.isprintable() or "\\" in name:
        raise refusal(name, "has a name that is empty, too long, or contains unusual characters")
    if path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":"):
        raise refusal(name, "has a name that points outside the archive")
    if path.suffix.lower() in ARCHIVES:
        raise refusal(name, "is an archive; archives in archives are not supported")
