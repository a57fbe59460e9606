"""Rows of a group of batches: the same decisions and rows as one batch after the other."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.batches.ingest import Received
from service.batches.recording import Decision, NewBatch, record
from service.batches.upload import Upload
from service.errors import ServiceError, StorageFullError
from service.repositories import recalibrations, tokens
from service.repositories.lifecycle import Event
from service.repositories.records import StoredBatch, Stream, Token
from service.settings import Settings
from service.storage.blobs.protocol import BlobLocation
from service.storage.ledger.postgres import PostgresLedger
from service.storage.ledger.protocol import Ledger, Row, Transaction
from service.storage.ledger.sqlite import SqliteLedger

OPEN, SEALED, LIMITED, NOWHERE = "open", "sealed", "limited", "nowhere"
QUOTA_BYTES = 60
TABLES = (
    "SELECT * FROM batch ORDER BY recalibration, stream, batch_index",
    """
    SELECT id, received, samples, bytes, source_received, source_samples, source_bytes
    FROM recalibration ORDER BY id
    """,
    "SELECT scope, key, request_sha256, response FROM idempotency ORDER BY scope, key",
    "SELECT bytes FROM stored_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An upload to a ledger with three recalibrations."""

    recalibration: str
    stream: Stream
    index: int | None
    key: str | None
    content: int
    with_content: bool
    disk_full: bool


uploads = st.builds(
    Given,
    recalibration=st.sampled_from([OPEN, OPEN, LIMITED, LIMITED, SEALED, NOWHERE]),
    stream=st.sampled_from(Stream),
    index=st.none() | st.integers(0, 4),
    key=st.sampled_from([None, None, "k", "l", ""]),
    content=st.integers(1, 3),
    with_content=st.booleans(),
    disk_full=st.integers(0, 9).map(lambda number: not number),
)


async def no_body() -> AsyncIterator[bytearray]:
    yield bytearray()


def item(settings: Settings, one: Given, number: int) -> NewBatch:
    """Return the batch of an upload; `number` names its file."""

    def keep(_: Transaction) -> BlobLocation:
        if one.disk_full:
            raise StorageFullError("no space")
        return BlobLocation(name=f"blob{number}", start=None if one.content == 1 else number)

    upload = Upload(
        recalibration_id=one.recalibration,
        index=one.index,
        format="npy",
        body=no_body(),
        digest=None,
        key=one.key if one.index is None else None,
        key_with_content=one.with_content,
        stream=one.stream,
    )
    sha256 = hashlib.sha256(bytes([one.content])).hexdigest()
    received = Received(samples=one.content, bytes=10 * one.content, sha256=sha256)
    return NewBatch(settings=settings, upload=upload, received=received, keep=keep)


def fill(tx: Transaction) -> None:
    """Create an open and a sealed recalibration, and one whose owner has a quota."""
    token = Token(name="owner", sha256="0" * 64, limit_bytes=QUOTA_BYTES)
    tokens.insert(tx, token)
    for name in (OPEN, SEALED, LIMITED):
        recalibrations.insert(
            tx,
            recalibration_id=name,
            owner="owner" if name == LIMITED else "",
            model="m",
            inputs="[]",
            options="{}",
            keep_data=False,
        )
    recalibrations.move(tx, SEALED, Event.START)


def outcome(one: object) -> object:
    """Return a decision in a form that can be compared."""
    if isinstance(one, ServiceError):
        return type(one).__name__, one.message, dict(one.details)
    return one


async def stored(ledger: Ledger, given_uploads: Sequence[Given], sizes: Sequence[int]) -> object:
    """Record uploads in groups of these sizes; return the decisions and the tables."""
    settings = Settings(
        recalibration_limit_bytes=80, recalibration_limit_batches=5, total_limit_bytes=150
    )
    items = [item(settings, one, number) for number, one in enumerate(given_uploads)]
    await ledger.write(fill)
    decisions: list[Decision] = []
    rest = items
    for size in (*sizes, len(items)):
        group, rest = rest[:size], rest[size:]
        if group:
            decisions += await ledger.write(lambda tx: record(tx, group))  # noqa: B023 - awaited
    tables: list[list[Row]] = [
        await ledger.read(lambda tx: tx.rows(query))  # noqa: B023 - awaited
        for query in TABLES
    ]
    return list(map(outcome, decisions)), json.dumps(tables)


@pytest.fixture
def fresh(request: pytest.FixtureRequest, settings: Settings) -> Callable[[], Ledger]:
    """Open an empty ledger each time."""
    number = 0

    def opened() -> Ledger:
        nonlocal number
        number += 1
        if settings.ledger:
            return PostgresLedger(request.getfixturevalue("postgres").create_schema())
        folder = settings.data_dir / str(number)
        folder.mkdir(parents=True)
        return SqliteLedger(folder / "ledger.sqlite3")

    return opened


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(uploads=st.lists(uploads, max_size=14), sizes=st.lists(st.integers(1, 6), max_size=6))
def test_groups_decide_as_single_batches(
    uploads: list[Given], sizes: list[int], fresh: Callable[[], Ledger]
) -> None:
    single, grouped = fresh(), fresh()
    one_by_one = asyncio.run(stored(single, uploads, [1] * len(uploads)))
    assert asyncio.run(stored(grouped, uploads, sizes)) == one_by_one
    single.close()
    grouped.close()


def test_concurrent_batches_are_recorded_together(fresh: Callable[[], Ledger]) -> None:
    ledger = fresh()
    given_uploads = [
        Given(
            recalibration=OPEN,
            stream=Stream.TARGET,
            index=index,
            key=None,
            content=1,
            with_content=False,
            disk_full=False,
        )
        for index in (0, 1, 1, 2, 0)
    ]
    calls = 0

    def counted(tx: Transaction, items: Sequence[NewBatch]) -> Sequence[Decision]:
        nonlocal calls
        calls += 1
        return record(tx, items)

    async def run() -> list[tuple[StoredBatch, bool]]:
        await ledger.write(fill)
        items = [item(Settings(), one, number) for number, one in enumerate(given_uploads)]
        return await asyncio.gather(*(ledger.write_together(counted, one) for one in items))

    found = asyncio.run(run())
    assert [is_new for _, is_new in found] == [True, True, False, True, False]
    assert [batch.blob for batch, _ in found] == ["blob0", "blob1", "blob1", "blob3", "blob0"]
    assert calls < len(given_uploads)
    ledger.close()
