"""The interface of the blob store.

A key is a relative path such as `models/<sha256>/model.onnx`. A stored blob has no path: it may be
kept on another machine. Code that needs a file, such as a worker, asks for one with `local`. Drafts
and workspaces are scratch files on this machine by definition. A key is written once: the names of
blobs are random, so no store needs conditional writes.

All methods that are not coroutines may block (they wait for the disk): call them in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.storage.ledger.protocol import Transaction
from service.storage.scratch import Scratch


class Draft(Protocol):
    """A file on this machine that is being written and is not visible under any key."""

    @property
    def path(self) -> Path:
        """Path of the scratch file, for a worker that must read it before it is stored."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        ...

    def commit(self, key: str) -> None:
        """Store the file durably under `key`, replacing an existing blob; ends the draft."""
        ...

    def discard(self) -> None:
        """Delete the file; has no effect after `commit` or when repeated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobLocation:
    """Location of a small blob: the name of its file, and its first byte.

    Attributes:
        name: of the file in its folder.
        start: offset in bytes; None where the blob is the whole file.
    """

    name: str
    start: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobContent:
    """Content that a blob must have, as the ledger records it.

    Attributes:
        key: key of the blob.
        bytes: size of the content.
        sha256: digest of the content in hexadecimal.
        start: offset in the blob, which is a pack; None where the content is the whole blob.
    """

    key: str
    bytes: int
    sha256: str
    start: int | None = None


class StagedBlob(Protocol):
    """A small blob that becomes durable no later than the rows that refer to it."""

    def store(self, tx: Transaction) -> BlobLocation:
        """Store the blob together with the changes of a transaction and return its location.

        When the transaction commits, the blob is durable; when it does not, the blob is dropped.
        Call it inside `Ledger.write`, at most once, and not at all for a blob that is not needed.

        Raises:
            StorageFullError, StorageFailedError: the blob could not be written.
        """
        ...


class Blobs(Protocol):
    """Files that are either complete and durable, or absent."""

    def bind(self, ledger_id: str) -> None:
        """Bind the store to a ledger, unless it is local to it.

        Raises:
            StartError: it is bound to another ledger, whose blobs would be removed as orphans.
            CapacityError: the store does not respond.
        """
        ...

    async def stage(self, folder: str, content: bytes | bytearray) -> StagedBlob:
        """Prepare a small blob that is stored with the rows of a transaction.

        Raises:
            StorageFullError, StorageFailedError: the blob could not be written.
        """
        ...

    def draft(self) -> Draft:
        """Start a new file."""
        ...

    def workspace(self) -> Path:
        """Create an empty private folder for a worker; it is removed at the end of the process."""
        ...

    def adopt(self, file: Path, key: str) -> None:
        """Store a file from a workspace durably under `key`."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether a blob is stored under `key`."""
        ...

    def local(self, content: BlobContent) -> AbstractAsyncContextManager[Path]:
        """Return a context in which a whole blob is available as a local file.

        A store that keeps its blobs elsewhere fetches and checks them on entry and removes its copy
        on exit. The file must not be changed, and has the name of the blob.

        Raises:
            StorageFailedError: the blob is missing or has other content. A store whose blobs are
                local files does not check, and gives a path without a file.
            CapacityError: the store does not respond.
        """
        ...

    def local_folder(
        self, folder: str, contents: AsyncIterator[Sequence[BlobContent]]
    ) -> AbstractAsyncContextManager[Path]:
        """As `local` for the blobs of a folder; the local folder has at least the given contents.

        Each file has the name of its blob, and each content its offset.
        """
        ...

    def path(self, key: str) -> Path | None:
        """Return the path of the local file that holds a blob; None if blobs are kept elsewhere."""
        ...

    def stream(self, content: BlobContent, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob from `start` to `stop`.

        If that is the whole blob, its digest is checked before the last bytes are yielded.

        Raises:
            NotFoundError: the blob has just been deleted.
            StorageFailedError: the blob has other content.
            CapacityError: the store does not respond.
        """
        ...

    def signed_url(self, key: str, seconds: float) -> str | None:
        """Return a URL at which anyone can download a blob for some time, or None."""
        ...

    def names(self, folder: str, *, min_age_seconds: float = 0) -> Iterator[str]:
        """Yield the names directly under a folder; nothing if it does not exist.

        With a minimum age, only names under which nothing has changed for that time.
        """
        ...

    def remove(self, key: str) -> None:
        """Remove a blob or a folder of blobs if it exists."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the store accepts no blobs; None while it works."""
        ...

    async def check(self) -> str | None:
        """Return why the store accepts no blobs now, or None; may send a request to it."""
        ...

    @property
    def scratch(self) -> Scratch:
        """The folder of drafts and workspaces of this process."""
        ...

    def close(self) -> None:
        """Remove the scratch folder."""
        ...
