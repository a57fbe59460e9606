"""The rows of batches: the decision whether each is new, a replay, or rejected.

All batches that wait at the same time are decided in one transaction. What the ledger knows of them
is read once, decisions change a copy of it in memory, and the rows of new batches are inserted at
the end. So a group costs a distant database few round trips, whatever its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.batches.ingest import Received
from service.batches.upload import PATHS, Upload
from service.errors import BatchConflictError, QuotaError, ServiceError
from service.repositories import batches as store
from service.repositories import idempotency, recalibrations, tokens, usage
from service.repositories.batches import BatchPlace
from service.repositories.idempotency import KeyPlace, StoredResponse
from service.repositories.records import Recalibration, StoredBatch, Stream
from service.settings import Settings
from service.storage.blobs.protocol import BlobLocation
from service.storage.ledger.protocol import Transaction

Keep = Callable[[Transaction], BlobLocation]
"""Stores the bytes of a new batch and returns their location."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A received batch that has no row yet.

    Attributes:
        settings: the limits.
        upload: the upload.
        received: size, digest and number of samples of the received body.
        keep: called only if the batch is new.
    """

    settings: Settings
    upload: Upload
    received: Received
    keep: Keep

    @property
    def stream(self) -> tuple[str, Stream]:
        """The recalibration and its stream."""
        return self.upload.recalibration_id, self.upload.stream

    def place(self, index: int) -> BatchPlace:
        """Return the place of an index in the stream."""
        return *self.stream, index

    def key(self) -> KeyPlace | None:
        """Return the place of the response under the idempotency key, None without a key."""
        return _key(self.upload, self.received.sha256)


Decision = tuple[StoredBatch, bool] | ServiceError
"""The batch and whether it is new, or why it was rejected."""


def record(tx: Transaction, items: Sequence[NewBatch]) -> list[Decision]:
    """Insert the rows of batches, except replays and those that a limit or a conflict rejects.

    The errors of a batch are NotFoundError, RecalibrationNotOpenError, BatchConflictError,
    IdempotencyKeyReusedError, RequestInvalidError, QuotaError and StorageFullError, see
    `service.batches.operations.put`, and those of its `keep`.
    """
    group = _Group(tx, items)
    decisions = [group.decide(item) for item in items]
    group.insert()
    return decisions


@dataclass(slots=True, kw_only=True)
class _Added:
    """What a group adds to one stream."""

    batches: int = 0
    samples: int = 0
    bytes: int = 0


class _Group:
    """What the ledger knows of the batches of a group, and what they add."""

    def __init__(self, tx: Transaction, items: Sequence[NewBatch]) -> None:
        self._tx = tx
        ids = {item.upload.recalibration_id for item in items}
        places = {item.place(index) for item in items if (index := item.upload.index) is not None}
        appended = {item.stream for item in items if item.upload.index is None}
        keys = {key for item in items if (key := item.key()) is not None}
        # All queries are sent before the rows of the first are awaited.
        recalibrations_found = recalibrations.fetch(tx, list(ids))
        batches_found = store.fetch(tx, list(places))
        indices_found = store.fetch_next_indices(tx, list(appended))
        responses_found = idempotency.fetch(tx, list(keys))
        total_found = usage.fetch_total(tx)
        self._recalibrations = recalibrations_found()
        self._batches = batches_found()
        self._next = indices_found()
        self._responses = responses_found()
        self._total_bytes = total_found()
        self._quotas: dict[str, tokens.ByteQuota] = {}
        self._new: list[tuple[NewBatch, StoredBatch]] = []
        self._added: dict[tuple[str, Stream], _Added] = {}
        self._added_to_owners: Counter[str] = Counter()

    def decide(self, item: NewBatch) -> Decision:
        """Return what becomes of a batch."""
        try:
            if (again := self._replayed_by_key(item)) is not None:
                return again, False
            return self._decide(item)
        except ServiceError as error:
            return error

    def insert(self) -> None:
        """Insert the rows of the new batches, and count them."""
        store.insert_all(
            self._tx,
            [(item.upload.recalibration_id, item.upload.stream, row) for item, row in self._new],
        )
        for (name, stream), added in self._added.items():
            recalibrations.count_batches(
                self._tx,
                name,
                stream,
                count=added.batches,
                samples=added.samples,
                size=added.bytes,
            )
        idempotency.store_responses(
            self._tx,
            {
                key: StoredResponse(request=row.sha256, response=str(row.index))
                for item, row in self._new
                if (key := item.key()) is not None
            },
        )

    def _decide(self, item: NewBatch) -> tuple[StoredBatch, bool]:
        upload, received = item.upload, item.received
        found = self._recalibrations.get(upload.recalibration_id)
        if found is None:
            raise recalibrations.missing(upload.recalibration_id)
        index = self._next[item.stream] if upload.index is None else upload.index
        known = self._batches.get(item.place(index))
        if known is not None:
            return replayed(known, received.sha256), False
        found.require_open()
        self._check_limits(item, found, index)
        location = item.keep(self._tx)
        batch = StoredBatch(
            index=index,
            samples=received.samples,
            bytes=received.bytes,
            sha256=received.sha256,
            format=upload.format,
            blob=location.name,
            start=location.start,
        )
        self._add(item, batch, found)
        return batch, True

    def _replayed_by_key(self, item: NewBatch) -> StoredBatch | None:
        key = item.key()
        if key is None:
            return None
        response = idempotency.check(key, self._responses.get(key), item.received.sha256)
        if response is None:
            return None
        place = item.place(int(response))
        # Not fetched with the others: until the responses arrive, the index is not known.
        return self._batches.get(place) or store.find(self._tx, *place)

    def _add(self, item: NewBatch, batch: StoredBatch, found: Recalibration) -> None:
        """Add a new batch to what the ledger knows."""
        self._new.append((item, batch))
        self._batches[item.place(batch.index)] = batch
        if item.stream in self._next:
            self._next[item.stream] = max(self._next[item.stream], batch.index + 1)
        added = self._added.setdefault(item.stream, _Added())
        added.batches += 1
        added.samples += batch.samples
        added.bytes += batch.bytes
        self._total_bytes += batch.bytes
        self._added_to_owners[found.owner] += batch.bytes
        if (key := item.key()) is not None:
            self._responses[key] = StoredResponse(request=batch.sha256, response=str(batch.index))

    def _check_limits(self, item: NewBatch, found: Recalibration, index: int) -> None:
        settings, size = item.settings, item.received.bytes
        both = [self._added.get((found.id, stream), _Added()) for stream in Stream]
        if found.bytes + sum(one.bytes for one in both) + size > settings.recalibration_limit_bytes:
            limit = settings.recalibration_limit_bytes
            raise QuotaError(f"a recalibration accepts at most {limit} bytes", limit=limit)
        limit = min(settings.recalibration_limit_batches, store.MAX_INDEX + 1)
        stored = found.received + found.source_received + sum(one.batches for one in both)
        if stored >= limit or index > store.MAX_INDEX:
            raise QuotaError(f"a recalibration accepts at most {limit} batches", limit=limit)
        self._quota(found.owner).check(self._added_to_owners[found.owner] + size)
        usage.check_total_bytes(self._total_bytes, settings, size)

    def _quota(self, owner: str) -> tokens.ByteQuota:
        if owner not in self._quotas:
            self._quotas[owner] = tokens.byte_quota(self._tx, owner)
        return self._quotas[owner]


def lookup(tx: Transaction, upload: Upload, sha256: str) -> StoredBatch | None:
    """Return the batch that was stored under the upload's key, or None.

    Raises:
        IdempotencyKeyReusedError: the key was used with other content.
    """
    key = _key(upload, sha256)
    if key is None:
        return None
    response = idempotency.lookup(tx, scope=key.scope, key=key.key, request=sha256)
    if response is None:
        return None
    return store.find(tx, upload.recalibration_id, upload.stream, int(response))


def _key(upload: Upload, sha256: str) -> KeyPlace | None:
    key = upload.key
    if key is None:
        return None
    if upload.key_with_content:
        key = idempotency.fingerprint(f"{sha256} {key}".encode())
    path = f"/v1/recalibrations/{upload.recalibration_id}/{PATHS[upload.stream]}"
    return KeyPlace(scope=f"POST {path}", key=key)


def replayed(known: StoredBatch, sha256: str) -> StoredBatch:
    """Return the stored batch of a replay.

    Raises:
        BatchConflictError: the stored batch has other content.
    """
    if known.sha256 != sha256:
        raise BatchConflictError(
            f"batch {known.index} is stored with SHA-256 {known.sha256}, the new one has {sha256}",
            batch=known.index,
            stored=known.sha256,
        )
    return known
