"""The files of all blobs, for the admin commands."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from service.errors import NotFoundError
from service.settings import Settings
from service.storage.blobs.object_client import ObjectClient, spans
from service.storage.blobs.objects import parts
from service.storage.blobs.protocol import BlobContent

FOLDERS = ("models", "recalibrations")


class BlobFiles(Protocol):
    """Files of blobs by key."""

    def keys(self) -> Iterator[str]:
        """Yield the keys of all blobs."""
        ...

    def size(self, key: str) -> int:
        """Return the size of a blob in bytes.

        Raises:
            FileNotFoundError: no blob has this key.
            OSError: it cannot be read.
        """
        ...

    def digests(self, contents: Sequence[BlobContent]) -> Iterator[str]:
        """Yield the SHA-256 digests of contents of one blob in hexadecimal.

        Raises:
            OSError: the blob cannot be read.
        """
        ...

    def remove(self, folder: str) -> None:
        """Remove all blobs in a folder."""
        ...


class LocalFiles:
    """`BlobFiles` of a data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keys(self) -> Iterator[str]:
        """Yield the keys of all blobs."""
        for name in FOLDERS:
            for path in (self._folder / name).rglob("*"):
                if not path.is_dir():
                    yield path.relative_to(self._folder).as_posix()

    def size(self, key: str) -> int:
        """Return the size of a file in bytes."""
        with (self._folder / key).open("rb") as stream:
            return os.fstat(stream.fileno()).st_size

    def digests(self, contents: Sequence[BlobContent]) -> Iterator[str]:
        """Yield the digests of contents of one file."""
        with (self._folder / contents[0].key).open("rb") as stream:
            for one in contents:
                if one.start is None:
                    yield hashlib.file_digest(stream, "sha256").hexdigest()
                else:
                    stream.seek(one.start)
                    yield hashlib.sha256(stream.read(one.bytes)).hexdigest()

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        shutil.rmtree(self._folder / folder, ignore_errors=True)


class ObjectFiles:
    """`BlobFiles` of an object store."""

    def __init__(self, client: ObjectClient) -> None:
        self._client = client

    def keys(self) -> Iterator[str]:
        """Yield the keys of all objects."""
        for name in FOLDERS:
            yield from (key for key, _ in self._client.objects(name))

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""
        try:
            return self._client.size(key)
        except NotFoundError as error:
            raise FileNotFoundError(key) from error

    def digests(self, contents: Sequence[BlobContent]) -> Iterator[str]:
        """Yield the digests of contents of one object."""
        if contents[0].start is None:
            yield self._digest(contents[0])
            return
        # Each is small, and near ones share a request.
        for group in parts(contents):
            ranges = [(one.start or 0, (one.start or 0) + one.bytes) for one in group]
            for part in self._client.read_ranges(group[0].key, ranges):
                yield hashlib.sha256(part).hexdigest()

    def _digest(self, content: BlobContent) -> str:
        digest = hashlib.sha256()
        for start, stop in spans(0, content.bytes):
            digest.update(self._client.read(content.key, start, stop))
        return digest.hexdigest()

    def remove(self, folder: str) -> None:
        """Remove all objects in a folder."""
        self._client.remove_folder(folder)


def open_files(settings: Settings) -> BlobFiles:
    """Return the files of the blob store that the settings name.

    Raises:
        StartError: the object store cannot be used.
    """
    if settings.blobs:
        return ObjectFiles(ObjectClient(settings.blobs))
    return LocalFiles(settings.data_dir)
