"""The seam between the operations and whatever keeps the files.

A key is a relative path such as `models/<sha256>/model.onnx`. All methods block (they fsync): call
them in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Draft(Protocol):
    """A file that is being written and that nobody else sees."""

    @property
    def path(self) -> Path:
        """Where it lies, for a worker that must look at it before it is kept."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        ...

    def commit(self, key: str) -> None:
        """Make the file durable under `key`, in place of what was there; ends the draft."""
        ...

    def discard(self) -> None:
        """Throw the file away; harmless after `commit` and when repeated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a blob lies: the file's name, and the first byte; None where the file is its own."""

    name: str
    start: int | None


class Packs(Protocol):
    """Files that hold many small blobs, one behind the other; used by one thread at a time."""

    def append(self, folder: str, data: bytes | bytearray) -> Place:
        """Append a blob to a pack of a folder; nothing is durable before `settle`.

        Raises:
            StorageFullError, StorageFailedError: it could not be written.
        """
        ...

    def settle(self) -> None:
        """Make all that was appended durable.

        Raises:
            StorageFullError, StorageFailedError: nobody knows what of it is on the disk.
        """
        ...

    def abandon(self) -> None:
        """Take back what was appended and not settled; harmless when there is nothing."""
        ...


class Blobs(Protocol):
    """Files that are whole and durable, or not there."""

    @property
    def packs(self) -> Packs:
        """The packs of small blobs."""
        ...

    def draft(self) -> Draft:
        """Begin a file."""
        ...

    def workspace(self) -> Path:
        """Make an empty private folder for a worker; it does not outlive the server."""
        ...

    def adopt(self, file: Path, key: str) -> None:
        """Make a file from a workspace durable under `key`."""
        ...

    def path(self, key: str) -> Path:
        """Return where a blob lies (or would lie)."""
        ...

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names directly under a folder; nothing when it is not there."""
        ...

    def remove(self, key: str) -> None:
        """Remove a blob or a folder of blobs; harmless when it is not there."""
        ...

    @property
    def failure(self) -> str | None:
        """Why no blob is taken any more; None while all is well."""
        ...
