"""The blob store in an object store: what it does beyond the conformance of all stores."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from time import monotonic

import httpx
import pytest

from service.errors import CapacityError, ServiceError, StartError, StorageFailedError
from service.storage.blobs import object_client
from service.storage.blobs.object_client import PART_BYTES, ObjectClient
from service.storage.blobs.objects import ObjectBlobs
from service.storage.blobs.os_calls import OsCalls
from service.storage.blobs.protocol import BlobContent
from tests.support.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.support.s3 import ObjectServer
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("s3")

FOLDER = "recalibrations/r/batches"
KEY = f"{FOLDER}/file"


@pytest.fixture
def url(s3: ObjectServer) -> str:
    return f"s3://{s3.bucket()}/prefix"


@pytest.fixture
def proxy(s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Put a proxy in front of the server, and shorten the times of the client."""
    monkeypatch.setattr(object_client, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(object_client, "RETRY_SECONDS", 2.0)
    with faulty_proxy(s3.endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


def content_of(data: bytes, *, key: str = KEY, start: int | None = None) -> BlobContent:
    return BlobContent(
        key=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), start=start
    )


async def page(*contents: BlobContent) -> AsyncIterator[Sequence[BlobContent]]:
    yield contents


async def fetch(blobs: ObjectBlobs, *contents: BlobContent) -> None:
    async with blobs.local_folder(FOLDER, page(*contents)):
        pass


DATA = bytes(range(256)) * 100


@pytest.mark.parametrize(
    "stored", [DATA[:-1] + b"x", DATA[:-1], DATA[1:], b""], ids=["other", "short", "moved", "empty"]
)
@pytest.mark.parametrize("start", [None, 0])
def test_damaged_object_is_noticed(
    url: str, tmp_path: Path, stored: bytes, start: int | None
) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    ObjectClient(url).put(KEY, stored)
    content = content_of(DATA, start=start)
    with pytest.raises(ServiceError):
        asyncio.run(fetch(blobs, content))
    assert list(blobs.scratch.folder.iterdir()) == []


def test_damaged_object_is_never_sent_to_its_end(url: str, tmp_path: Path) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    data = bytes(PART_BYTES + 5)
    ObjectClient(url).put(KEY, data[:-1] + b"x")
    sent = bytearray()

    async def send() -> None:
        async for block in blobs.stream(content_of(data), 0, len(data)):
            sent.extend(block)

    with pytest.raises(StorageFailedError, match="other content"):
        asyncio.run(send())
    assert len(sent) == PART_BYTES


def test_missing_object_is_named(url: str, tmp_path: Path) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    for start in (None, 0):
        with pytest.raises(StorageFailedError, match=f"{KEY} is missing"):
            asyncio.run(fetch(blobs, content_of(DATA, start=start)))


def test_fetched_files_leave_the_reserve_free(url: str, tmp_path: Path) -> None:
    class Full(OsCalls):
        def free_bytes(self, path: Path) -> int:
            assert path == tmp_path
            return 999

    blobs = ObjectBlobs(url, tmp_path, calls=Full(), reserve_bytes=1000)
    ObjectClient(url).put(KEY, DATA)
    with pytest.raises(CapacityError, match="1000 bytes are free"):
        asyncio.run(fetch(blobs, content_of(DATA)))


def test_signed_url_needs_no_credentials(url: str, tmp_path: Path) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    ObjectClient(url).put(KEY, DATA)
    assert httpx.get(blobs.signed_url(KEY, 60)).content == DATA
    assert httpx.get(blobs.signed_url(KEY, 60).partition("?")[0]).status_code == 403


def test_objects_below_the_prefix_only(url: str, tmp_path: Path) -> None:
    """Two servers with different prefixes share a bucket."""
    first, second = (ObjectBlobs(f"{url}{end}", tmp_path / end) for end in ("1", "2"))
    ObjectClient(f"{url}1").put(KEY, DATA)
    assert list(first.names("recalibrations")) == ["r"]
    assert list(second.names("recalibrations")) == []
    second.remove("recalibrations")
    assert first.exists(KEY)


def test_store_belongs_to_one_ledger(url: str, tmp_path: Path) -> None:
    """The cleanup of a server with another ledger would remove everything."""
    first, second = ObjectBlobs(url, tmp_path / "1"), ObjectBlobs(url, tmp_path / "2")
    for blobs in (first, second, first):
        blobs.bind("a" * 32)
    with pytest.raises(StartError, match="another prefix"):
        second.bind("b" * 32)
    first.bind("a" * 32)


@pytest.mark.parametrize(
    "given", ["bucket", "s3:/bucket", "s3://", "http://host/bucket", "file:///folder", "ftp://x"]
)
def test_other_urls_prevent_the_start(given: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="BNRECAL_BLOBS"):
        ObjectBlobs(given, tmp_path)


def test_missing_bucket_prevents_the_start(s3: ObjectServer, tmp_path: Path) -> None:
    assert s3.endpoint
    with pytest.raises(StartError, match="s3://missing/prefix cannot be used"):
        ObjectBlobs("s3://missing/prefix", tmp_path)


def test_wrong_credentials_prevent_the_start(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StartError, match="403") as caught:
        ObjectBlobs(url, tmp_path)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.STALL, Fault.BUSY, Fault.LOSE_ANSWER])
def test_faults_end_in_bounded_time_and_heal(
    proxy: FaultyProxy, url: str, tmp_path: Path, fault: Fault
) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    client = ObjectClient(url)
    client.put(KEY, DATA)
    proxy.fault = fault
    proxy.reset()
    for work in (
        lambda: asyncio.run(blobs.stage(FOLDER, b"x")),
        lambda: blobs.adopt(written(blobs), f"{FOLDER}/other"),
        lambda: asyncio.run(fetch(blobs, content_of(DATA))),
        lambda: blobs.exists(KEY),
        lambda: list(blobs.names("recalibrations")),
    ):
        began = monotonic()
        with pytest.raises(CapacityError, match="object store"):
            work()
        # Generous, for a busy machine: the limits of the client are 3 seconds together.
        assert monotonic() - began < 20
    assert asyncio.run(blobs.check()) == f"the object store {url} does not accept requests"
    proxy.fault = Fault.NONE
    proxy.reset()
    assert asyncio.run(blobs.check()) is None
    assert blobs.failure is None
    asyncio.run(fetch(blobs, content_of(DATA)))


def written(blobs: ObjectBlobs) -> Path:
    file = blobs.workspace() / "result"
    file.write_bytes(DATA)
    return file


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.BUSY, Fault.LOSE_ANSWER, Fault.TRUNCATE])
def test_short_faults_are_bridged(
    proxy: FaultyProxy, url: str, tmp_path: Path, fault: Fault
) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    proxy.fault = fault
    before = proxy.requests
    writing = threading.Thread(target=ObjectClient(url).put, args=(KEY, DATA))
    writing.start()
    until(lambda: proxy.requests > before)
    proxy.fault = Fault.NONE
    writing.join()
    asyncio.run(fetch(blobs, content_of(DATA)))


def test_truncated_answers_never_become_content(
    proxy: FaultyProxy, url: str, tmp_path: Path
) -> None:
    blobs = ObjectBlobs(url, tmp_path)
    data = DATA * 100
    ObjectClient(url).put(KEY, data)
    proxy.fault = Fault.TRUNCATE
    with pytest.raises(CapacityError):
        asyncio.run(fetch(blobs, content_of(data)))
    assert list(blobs.scratch.folder.iterdir()) == []


def test_cancelled_fetch_ends_soon(proxy: FaultyProxy, url: str, tmp_path: Path) -> None:
    """A cancelled run does not wait until everything is fetched, and leaves no files."""
    blobs = ObjectBlobs(url, tmp_path)
    client = ObjectClient(url)
    keys = [f"{FOLDER}/{number}" for number in range(8)]
    for key in keys:
        client.put(key, DATA)
    proxy.fault = Fault.STALL
    proxy.reset()

    async def cancel() -> None:
        task = asyncio.create_task(fetch(blobs, *(content_of(DATA, key=key) for key in keys)))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    began = monotonic()
    asyncio.run(cancel())
    assert monotonic() - began < 20
    assert list(blobs.scratch.folder.iterdir()) == []
