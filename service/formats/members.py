"""What every archive keeps to, whatever its format: few, plain, singly named, bounded members.

The check of names keeps files in their place: `service.workers.child.model_archive` writes a
model's members to a folder under the names that the archive gives them, and a name such as `../x`
would lead out of it. Batches are read without being unpacked; a name that leads elsewhere is
refused there as well, for whoever wrote it did not mean a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from service.errors import BatchMalformedError, BatchUnpackedTooLargeError

MOST_MEMBERS = 100_000
LONGEST_NAME = 1024
_SHOWN = 200
ARCHIVES = frozenset(
    {".zip", ".npz", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive.

    Attributes:
        name: as the archive spells it.
        size: bytes, as the archive says.
        open: begins to read it; the stream gives at most `size` bytes.
        guard: turns what a reader raises on a broken archive into this package's error.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    guard: Callable[[], AbstractContextManager[None]]

    def read(self) -> bytes:
        """Return the content.

        Raises:
            BatchMalformedError: the archive ends inside it.
        """
        with self.guard(), self.open() as stream:
            content = stream.read(self.size)
            if len(content) != self.size or stream.read(1):
                raise BatchMalformedError(
                    f"the member {shown(self.name)} is not as long as the archive says",
                    member=shown(self.name),
                )
        return content


class Inventory:
    """Counts members as they are listed, and refuses what breaks the rules."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._names: set[str] = set()
        self._bytes = 0

    def add(self, name: str, size: int) -> None:
        """Take one more member.

        Raises:
            BatchMalformedError: a name that leads elsewhere, stands there twice or is an archive's.
            BatchUnpackedTooLargeError: too many members, or too many bytes in all.
        """
        _check_name(name)
        if name in self._names:
            raise refusal(name, "stands twice in the archive")
        self._names.add(name)
        if len(self._names) > MOST_MEMBERS:
            raise BatchUnpackedTooLargeError(
                f"the archive has more than {MOST_MEMBERS} members: send several batches",
                limit=MOST_MEMBERS,
            )
        self._bytes += size
        if self._bytes > self._limit_bytes:
            raise BatchUnpackedTooLargeError(
                f"the archive unpacks to more than {self._limit_bytes} bytes: "
                "send several smaller batches",
                limit=self._limit_bytes,
            )


def refusal(name: str, fault: str) -> BatchMalformedError:
    """Build the error for one member."""
    return BatchMalformedError(f"the member {shown(name)} {fault}", member=shown(name))


def shown(name: str) -> str:
    """Write a stranger's name so that it fits into a message and a log."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or "\\" in name:
        raise refusal(name, "has a name that is empty, too long, or holds unusual characters")
    if path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":"):
        raise refusal(name, "has a name that leads out of the archive")
    if path.suffix.lower() in ARCHIVES:
        raise refusal(name, "is an archive itself; archives in archives are not read")
