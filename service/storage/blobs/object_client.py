"""Requests to an object store: bounded in time, with the errors of this package.

Each request reads or writes at most `PART_BYTES`, so its time limit is one for a known size. All
methods block.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any

from service.errors import CapacityError, NotFoundError, StartError, StorageFailedError
from service.storage.capacity import translated

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_log = logging.getLogger(__name__)

SCHEMES = ("s3", "gs", "az")
PART_BYTES = 8 << 20
# A part arrives within this time at 0.6 MB/s.
REQUEST_SECONDS = 15.0
CONNECT_SECONDS = 5.0
# No request is repeated later than this after it began, so it takes at most 35 seconds in all. The
# pauses are random and grow by half each time, to about 15 seconds together: the restart of a
# gateway takes a few seconds.
RETRY_SECONDS = 20.0
MAX_RETRIES = 10
# Objects that one request removes.
MAX_REMOVED = 1000
# Parts of one object that are sent at the same time.
MAX_PARTS = 4
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")


class ObjectClient:
    """The objects under one URL.

    Attributes:
        url: the URL of the bucket and the prefix of all keys.
        failure: why the last request failed; None if it succeeded.
        answered_at: monotonic time of the last success in seconds.
    """

    def __init__(self, url: str, *, setting: str = "BNRECAL_BLOBS") -> None:
        """Read the credentials from the environment, by the names that the provider's tools use.

        Args:
            url: URL of a bucket or a prefix in it.
            setting: the setting that has the URL, for messages.

        Raises:
            StartError: the URL is not one of an object store, or obstore is not installed.
        """
        self.url = url
        self.failure: str | None = None
        self.answered_at = float("-inf")
        self._api, self._store = _open(url, setting)

    def require(self) -> None:
        """Check that the store responds and accepts the credentials.

        Raises:
            StartError: the store does not respond, or denies the request.
        """
        try:
            self.names("")
        except (CapacityError, NotFoundError) as error:
            cause = str(error.__cause__).partition("\n")[0]
            raise StartError(f"the object store {self.url} cannot be used: {cause}") from error

    def put(self, key: str, content: bytes | Path) -> None:
        """Store an object; a large file is sent in parts that become visible together.

        Raises:
            CapacityError: it could not be stored, or the answer was lost.
        """
        try:
            with self._answered():
                self._api.put(
                    self._store, key, content, chunk_size=PART_BYTES, max_concurrency=MAX_PARTS
                )
        except NotFoundError as error:
            self.failure = f"there is no bucket for {self.url}"
            raise CapacityError(f"{self.failure}; nothing was stored") from error

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Return a range of an object; less where the object ends before `stop`.

        Raises:
            NotFoundError: there is no such object.
            CapacityError: it could not be read.
        """
        with self._answered():
            return bytes(self._api.get_range(self._store, key, start=start, end=stop))

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges, each from a start to a stop; near ones share a request.

        Raises:
            NotFoundError, CapacityError: see `read`.
        """
        starts, ends = [start for start, _ in ranges], [stop for _, stop in ranges]
        with self._answered():
            found = self._api.get_ranges(self._store, key, starts=starts, ends=ends)
        return [bytes(one) for one in found]

    def exists(self, key: str) -> bool:
        """Return whether there is an object under a key.

        Raises:
            CapacityError: the store does not respond.
        """
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        """Return the size of an object in bytes.

        Raises:
            NotFoundError: there is no such object.
            CapacityError: the store does not respond.
        """
        with self._answered():
            return int(self._api.head(self._store, key)["size"])

    def objects(self, folder: str) -> Iterator[tuple[str, datetime]]:
        """Yield the key of each object below a folder, with the time when it was stored.

        Raises:
            CapacityError: the store does not respond.
        """
        with self._answered():
            for page in self._api.list(self._store, folder):
                for one in page:
                    yield one["path"], one["last_modified"]

    def names(self, folder: str) -> list[str]:
        """Return the names directly under a folder.

        Raises:
            CapacityError: the store does not respond.
        """
        with self._answered():
            found = self._api.list_with_delimiter(self._store, folder)
        keys = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return [key.rpartition("/")[2] for key in keys]

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; those that do not exist make no difference.

        Raises:
            CapacityError: the store does not respond.
        """
        with contextlib.suppress(NotFoundError), self._answered():
            self._api.delete(self._store, keys)

    def remove_folder(self, folder: str) -> None:
        """Remove all objects below a folder.

        Raises:
            CapacityError: the store does not respond.
        """
        keys = [key for key, _ in self.objects(folder)]
        for first in range(0, len(keys), MAX_REMOVED):
            self.remove(keys[first : first + MAX_REMOVED])

    def signed_url(self, key: str, seconds: float) -> str:
        """Return a URL at which anyone can download an object for some time.

        Raises:
            CapacityError: the credentials do not allow that, or could not be read.
        """
        with self._answered():
            return str(self._api.sign(self._store, "GET", key, timedelta(seconds=seconds)))

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        """Translate errors of obstore, and remember whether the store responds."""
        from obstore.exceptions import BaseError  # noqa: PLC0415 - an optional package

        try:
            with translated():
                yield
        except StorageFailedError as error:  # obstore raises Python's own error for this case
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            self._succeed()
            raise NotFoundError("the object has been deleted") from error
        except BaseError as error:
            # Further lines show the internals of the library.
            cause = str(error).partition("\n")[0]
            self.failure = f"the object store {self.url} does not accept requests"
            _log.warning(
                "A request to the object store failed: %s",
                cause,
                extra={"action": "object-store-failed", "error": cause},
            )
            raise CapacityError(
                "the object store does not respond or denies the request; nothing was acknowledged"
            ) from error
        self._succeed()

    def _succeed(self) -> None:
        self.failure = None
        self.answered_at = monotonic()


def spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of at most `PART_BYTES` that requests for a range read."""
    for first in range(start, stop, PART_BYTES):
        yield first, min(first + PART_BYTES, stop)


def _open(url: str, setting: str) -> tuple[ModuleType, ObjectStore]:
    """Return obstore and the store of a URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES or not rest.strip("/"):
        raise StartError(f"{setting} is s3://bucket/prefix, gs://… or az://…, not {url!r}")
    try:
        import obstore  # noqa: PLC0415 - an optional package
        from obstore.store import from_url  # noqa: PLC0415
    except ImportError as error:
        raise StartError(f"{url} needs obstore: pip install 'bnrecal[objects]'") from error
    # The digest is sent with the object. Not every server checks it; readers do.
    checked: dict[str, Any] = {"checksum_algorithm": "sha256"} if scheme == "s3" else {}
    try:
        store = from_url(url, client_options=_client(), retry_config=_retries(), **checked)
    except obstore.exceptions.BaseError as error:
        raise StartError(f"{url} cannot be used: {str(error).partition(chr(10))[0]}") from error
    return obstore, store


def _client() -> ClientConfig:
    # An endpoint that is named with http:// is meant so; without one, only TLS is used.
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    return {
        "timeout": timedelta(seconds=REQUEST_SECONDS),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "allow_http": plain,
    }


def _retries() -> RetryConfig:
    return {
        "max_retries": MAX_RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=3.2),
            "base": 3,
        },
    }
