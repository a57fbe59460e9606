"""Blob store in an object store, such as S3.

A blob is an object that is written once, under a random key, before the row that refers to it. What
a crash leaves without a row is removed by its age. A request whose answer was lost may have stored
its object: the client repeats it, and the repetition has another key.

Nothing about an object is believed without the row: each reader compares SHA-256 digests. Workers
have no network and no credentials. They read files, which this process fetches for them into the
scratch folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import ParamSpec, TypeVar

from service.errors import CapacityError, NotFoundError, StartError, StorageFailedError
from service.storage import capacity
from service.storage.blobs.folder import FileDraft
from service.storage.blobs.object_client import PART_BYTES, ObjectClient, spans
from service.storage.blobs.object_packs import ObjectPacks, StoredObject
from service.storage.blobs.os_calls import OsCalls, write_all
from service.storage.blobs.protocol import BlobContent
from service.storage.capacity import errno_name, translated
from service.storage.scratch import Scratch

P = ParamSpec("P")
T = TypeVar("T")

_STAGING = "staging"
# The object with the id of the ledger.
_OWNER = "ledger"
MAX_ID_BYTES = 100
# Requests that may wait for the store at the same time: packs, fetched parts and streamed results.
THREADS = 32
# Contents that are fetched at the same time for one worker.
MAX_FETCHES = 4
# An answer that is at most this old shows that the store works.
CHECK_SECONDS = 5.0


class ObjectBlobs:
    """`Blobs` under one URL of an object store.

    Attributes:
        scratch: the folder of drafts, workspaces and fetched files.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        calls: OsCalls | None = None,
        reserve_bytes: int = 0,
    ) -> None:
        """Open a store, and send a request to it.

        Args:
            url: the bucket and the prefix of all keys.
            folder: local folder of scratch files; created when missing.
            calls: the system calls for local files.
            reserve_bytes: scratch files of uploads and runs leave this much of the local disk free.

        Raises:
            StartError: the store or the folder cannot be used.
        """
        self._client = ObjectClient(url)
        self._client.require()
        self._calls = calls or OsCalls()
        self._reserve_bytes = reserve_bytes
        self._root = folder.absolute()
        try:
            (self._root / _STAGING).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.scratch = Scratch(self._root / _STAGING)
        except OSError as error:
            text = f"the data folder {folder} cannot be used ({errno_name(error)})"
            raise StartError(text) from error
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._packs = ObjectPacks(self._put_pack)
        self._checking = asyncio.Lock()

    def bind(self, ledger_id: str) -> None:
        """Write the ledger's id into the store, or compare it with the one that is there."""
        if not self._client.exists(_OWNER):
            self._client.put(_OWNER, ledger_id.encode())
        found = self._client.read(_OWNER, 0, MAX_ID_BYTES).decode(errors="replace")
        if found != ledger_id:
            raise StartError(
                f"{self._client.url} belongs to the ledger {found!r}, not to {ledger_id!r}: use "
                "another prefix, or start the server with the ledger of these objects"
            )

    async def stage(self, folder: str, content: bytes | bytearray) -> StoredObject:
        """Store a small blob durably in a pack."""
        return await self._packs.stage(folder, content)

    def draft(self) -> FileDraft:
        """Start a new file."""
        return FileDraft(self, self._calls, self.scratch.new_path(), durable=False)

    def workspace(self) -> Path:
        """Create an empty private folder."""
        return self.scratch.new_folder(self._calls)

    def adopt(self, file: Path, key: str) -> None:
        """Store a file from a workspace durably under `key`."""
        with translated():
            os.close(self._calls.open(file, os.O_RDONLY | os.O_NOFOLLOW))
        self.place(file, key)

    def place(self, source: Path, key: str) -> None:
        """Store a complete file under a key and delete it."""
        with translated():
            source.stat()
        self._client.put(key, source)
        with translated():
            self._calls.unlink(source)

    def exists(self, key: str) -> bool:
        """Return whether a blob is stored under `key`."""
        return self._client.exists(key)

    @contextlib.asynccontextmanager
    async def local(self, content: BlobContent) -> AsyncIterator[Path]:
        """Fetch a whole blob; yield its path."""
        folder, _, name = content.key.rpartition("/")
        async with self.local_folder(folder, _one_page(content)) as fetched:
            yield fetched / name

    @contextlib.asynccontextmanager
    async def local_folder(
        self, folder: str, contents: AsyncIterator[Sequence[BlobContent]]
    ) -> AsyncIterator[Path]:
        """Fetch contents of a folder; yield the path of the local folder."""
        target = await self._run(self.workspace)
        fetch = _Fetch(self._client, target, self._calls, self.check_reserve)
        try:
            await self._fetch_all(fetch, folder, contents)
            yield target
        finally:
            fetch.ended.set()
            await asyncio.shield(self._run(shutil.rmtree, target, ignore_errors=True))

    def path(self, key: str) -> None:
        """Return None: blobs are not local files."""
        del key

    async def stream(self, content: BlobContent, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob from `start` to `stop`, each part while the next is fetched."""
        digest = hashlib.sha256() if (start, stop) == (0, content.bytes) else None
        following = spans(start, stop)
        ahead = self._part(content, next(following, None))
        try:
            while ahead is not None:
                part = await ahead
                ahead = self._part(content, next(following, None))
                if digest is not None:
                    await self._run(digest.update, part)
                    if ahead is None and digest.hexdigest() != content.sha256:
                        raise _damaged(content)
                yield part
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    def _part(
        self, content: BlobContent, span: tuple[int, int] | None
    ) -> asyncio.Future[bytes] | None:
        if span is None:
            return None
        return asyncio.ensure_future(self._run(_read_exactly, self._client, content, *span))

    def signed_url(self, key: str, seconds: float) -> str:
        """Return a URL at which anyone can download a blob for some time."""
        return self._client.signed_url(key, seconds)

    def names(self, folder: str, *, min_age_seconds: float = 0) -> Iterator[str]:
        """Yield the names directly under a folder that have not changed for some time."""
        if min_age_seconds == 0:
            yield from self._client.names(folder)
            return
        newest: dict[str, datetime] = {}
        for key, stored in self._client.objects(folder):
            name = key.removeprefix(f"{folder}/").partition("/")[0]
            newest[name] = max(stored, newest.get(name, stored))
        before = datetime.now(UTC) - timedelta(seconds=min_age_seconds)
        yield from (name for name, stored in newest.items() if stored <= before)

    def remove(self, key: str) -> None:
        """Remove a blob or a folder of blobs."""
        self._client.remove([key])
        self._client.remove_folder(key)

    @property
    def failure(self) -> str | None:
        """Why the last request failed; None if it succeeded."""
        return self._client.failure

    async def check(self) -> str | None:
        """Return why the store accepts no blobs now; ask it unless it has just answered."""
        # One request at a time: those to a stalled store would use up the threads.
        if self._is_outdated() and not self._checking.locked():
            async with self._checking:
                with contextlib.suppress(CapacityError):  # it is the failure
                    await self._run(self._client.exists, "check")
        return self.failure

    def _is_outdated(self) -> bool:
        age = monotonic() - self._client.answered_at
        return self.failure is not None or age > CHECK_SECONDS

    def check_reserve(self) -> None:
        """Check that the local disk's reserve is free.

        Raises:
            StorageFullError: less than the reserve is free.
        """
        if self._reserve_bytes:
            with translated():
                free = self._calls.free_bytes(self._root)
            capacity.check_reserve(free, self._reserve_bytes)

    def close(self) -> None:
        """Finish the requests on the way, and remove the scratch folder."""
        # A thread in obstore at the end of the interpreter would abort the process.
        self._threads.shutdown(cancel_futures=True)
        self.scratch.close()

    async def _put_pack(self, key: str, content: bytes) -> None:
        await self._run(self._client.put, key, content)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread of this store, so that a stalled store blocks no other."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def _fetch_all(
        self, fetch: _Fetch, folder: str, contents: AsyncIterator[Sequence[BlobContent]]
    ) -> None:
        pending: set[asyncio.Future[None]] = set()
        try:
            async for page in contents:
                for group in _groups(page):
                    if len(pending) == MAX_FETCHES:
                        pending = await _first_done(pending)
                    pending.add(asyncio.ensure_future(self._run(fetch.write, folder, group)))
            while pending:
                pending = await _first_done(pending)
        finally:
            if pending:
                fetch.ended.set()
                # Threads cannot be cancelled; the first error is raised already.
                await asyncio.shield(asyncio.gather(*pending, return_exceptions=True))


class _Fetch:
    """Copies contents into a local folder; `write` blocks.

    Attributes:
        ended: set when the copies are no longer needed.
    """

    def __init__(
        self,
        client: ObjectClient,
        target: Path,
        calls: OsCalls,
        check_reserve: Callable[[], None],
    ) -> None:
        self._client = client
        self._target = target
        self._calls = calls
        self._check_reserve = check_reserve
        self.ended = threading.Event()

    def write(self, folder: str, group: list[BlobContent]) -> None:
        """Copy contents of one object of a folder.

        Raises:
            StorageFailedError: the object is missing or has other content.
            CapacityError: the store does not respond, or the local disk is full.
        """
        path = self._target / group[0].key.removeprefix(f"{folder}/")
        with translated():
            handle = self._calls.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            if group[0].start is None:
                self._whole(handle, group[0])
            else:
                self._parts(handle, group)
        except NotFoundError as error:
            raise StorageFailedError(f"the object {group[0].key} is missing") from error
        finally:
            os.close(handle)

    def _whole(self, handle: int, content: BlobContent) -> None:
        digest = hashlib.sha256()
        for start, stop in spans(0, content.bytes):
            part = _read_exactly(self._client, content, start, stop)
            digest.update(part)
            self._save(handle, part, start)
        if digest.hexdigest() != content.sha256:
            raise _damaged(content)

    def _parts(self, handle: int, group: list[BlobContent]) -> None:
        starts = [content.start or 0 for content in group]
        ranges = [(at, at + one.bytes) for at, one in zip(starts, group, strict=True)]
        for at, one, part in zip(
            starts, group, self._client.read_ranges(group[0].key, ranges), strict=True
        ):
            if hashlib.sha256(part).hexdigest() != one.sha256:
                raise _damaged(one)
            self._save(handle, part, at)

    def _save(self, handle: int, part: bytes, at: int) -> None:
        if self.ended.is_set():
            raise CapacityError("the files are no longer needed")
        self._check_reserve()
        with translated():
            os.lseek(handle, at, os.SEEK_SET)
            write_all(self._calls, handle, part)


def _read_exactly(client: ObjectClient, content: BlobContent, start: int, stop: int) -> bytes:
    part = client.read(content.key, start, stop)
    if len(part) != stop - start:
        raise _damaged(content)
    return part


def _damaged(content: BlobContent) -> StorageFailedError:
    return StorageFailedError(f"the object {content.key} has other content than the ledger expects")


def _groups(page: Sequence[BlobContent]) -> Iterator[list[BlobContent]]:
    """Yield the contents of each object; those of a large pack in several groups."""
    objects: dict[str, list[BlobContent]] = {}
    for one in page:
        objects.setdefault(one.key, []).append(one)
    for found in objects.values():
        yield from parts(found)


def parts(contents: Sequence[BlobContent]) -> Iterator[list[BlobContent]]:
    """Yield contents of one object in groups of about `PART_BYTES`."""
    group: list[BlobContent] = []
    size = 0
    for one in contents:
        if size >= PART_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += one.bytes
    if group:
        yield group


async def _first_done(pending: set[asyncio.Future[None]]) -> set[asyncio.Future[None]]:
    """Wait until at least one is done; return the others, or raise its error."""
    done, rest = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    pending.intersection_update(rest)
    for one in done:
        one.result()
    return rest


async def _one_page(content: BlobContent) -> AsyncIterator[Sequence[BlobContent]]:
    yield [content]
