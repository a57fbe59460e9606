"""Operations on models."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service import clock
from service.context import Context
from service.errors import ModelInUseError, ServiceError, StorageFailedError, WorkerDiedError
from service.repositories import models as store
from service.repositories import tokens, usage
from service.repositories.records import StoredModel
from service.storage.blobs.protocol import Draft
from service.storage.ledger.protocol import Transaction
from service.web import content_digest as digests
from service.web.content_digest import sha256_of

_ZIP = b"PK\x03\x04"


async def upload(
    context: Context, body: AsyncIterator[bytearray], *, digest: str | None
) -> tuple[StoredModel, bool]:
    """Store a model; return it, and whether it is new to the caller.

    A model that another owner has uploaded is inspected again, so that the response time does not
    reveal its existence.

    This process never parses the bytes: it writes them to the disk, and a worker reads them. A
    rejected model leaves nothing behind.

    Raises:
        RefusedError: the worker does not accept it.
        WorkerDiedError: repeated workers died of it.
        DigestMismatchError: the body does not match the announced digest.
        QuotaError: the token's quota is exceeded.
        CapacityError: it could not be stored.
    """
    draft = await asyncio.to_thread(context.blobs.draft)
    try:
        model = await _receive(draft, body)
        digests.verify(digest, model)
        if (known := await _whole(context, model, context.caller.scope)) is not None:
            await _touch(context, model)
            return known, False
        async with as_onnx(context, draft.path) as file:
            description = await _inspect(context, file)
            size = (await asyncio.to_thread(file.stat)).st_size
            await context.ledger.read(lambda tx: _check_limits(context, tx, size))
            sha256 = model if file == draft.path else await asyncio.to_thread(sha256_of, file)
            folder = store.new_folder(sha256)
            await asyncio.to_thread(_keep, context, draft, file, store.key(folder))
            return await _record(context, model, folder, size, description)
    finally:
        await asyncio.to_thread(draft.discard)


def _keep(context: Context, draft: Draft, file: Path, key: str) -> None:
    if file == draft.path:
        draft.commit(key)
    else:
        context.blobs.adopt(file, key)


async def delete(context: Context, model: str) -> None:
    """Delete a model; it stays for its other owners.

    Raises:
        NotFoundError: there is no such model.
        ModelInUseError: a recalibration of the caller that has not ended uses it.
    """
    scope = context.caller.scope

    def work(tx: Transaction) -> StoredModel | None:
        found = store.get(tx, model, owner=scope)
        if users := store.users(tx, model, owner=scope):
            raise ModelInUseError(
                f"{users} recalibrations that have not ended use the model", users=users
            )
        if scope is not None and (store.revoke(tx, model, scope) or store.users(tx, model)):
            return None
        store.delete(tx, model)
        return found

    if (deleted := await context.ledger.write(work)) is not None:
        await asyncio.to_thread(context.blobs.remove, store.folder(deleted.folder))


async def remove_unowned(context: Context) -> list[str]:
    """Remove models without an owner and without a recalibration in progress; return their ids."""
    removed = await context.ledger.write(store.delete_unowned)
    for one in removed:
        await asyncio.to_thread(context.blobs.remove, store.folder(one.folder))
    return [one.id for one in removed]


async def _inspect(context: Context, file: Path) -> dict[str, Any]:
    """Inspect a model; a worker that dies is replaced as often as the worker of a run."""
    for _ in range(context.settings.max_worker_crashes - 1):
        with contextlib.suppress(WorkerDiedError):
            return await context.executor.inspect(file)
    return await context.executor.inspect(file)


async def _whole(context: Context, model: str, owner: str | None) -> StoredModel | None:
    """Return a model if both its row and its file exist: a damaged disk may have lost the file.

    With an owner, only if the model belongs to that owner.
    """
    found = await context.ledger.read(lambda tx: store.find(tx, model, owner=owner))
    return found if found is not None and await _exists(context, found) else None


async def _exists(context: Context, found: StoredModel) -> bool:
    return await asyncio.to_thread(context.blobs.exists, store.key(found.folder))


async def _touch(context: Context, model: str) -> None:
    """Restart the retention time of a model."""
    now = datetime.now(UTC)
    # Often enough that it never expires, rarely enough that few requests wait for a commit.
    before = now - timedelta(seconds=min(86400.0, context.settings.model_retention_seconds / 2))
    owner, text = context.caller.name, clock.to_text(now)
    await context.ledger.write(
        lambda tx: store.touch(tx, model, owner, now=text, before=clock.to_text(before))
    )


async def _receive(draft: Draft, body: AsyncIterator[bytearray]) -> str:
    digest = hashlib.sha256()

    def take(block: bytearray) -> None:
        digest.update(block)
        draft.write(block)

    async for block in body:
        await asyncio.to_thread(take, block)
    return digest.hexdigest()


async def _record(
    context: Context, model: str, folder: str, size: int, description: dict[str, Any]
) -> tuple[StoredModel, bool]:
    """Insert the row of an uploaded model, or use the row that the same bytes have already."""
    known = await context.ledger.read(lambda tx: store.find(tx, model))
    lost = None if known is None or await _exists(context, known) else known.folder
    try:
        found, new = await _insert(context, model, folder, size, description, lost=lost)
    except StorageFailedError:
        # The commit may be on the disk nevertheless: a row without its file would be a loss.
        raise
    except ServiceError:
        await asyncio.to_thread(context.blobs.remove, store.folder(folder))
        raise
    if found.folder != folder:
        # The other file stays: the sandbox of a running worker allows that file only.
        await asyncio.to_thread(context.blobs.remove, store.folder(folder))
    return found, new


async def _insert(
    context: Context,
    model: str,
    folder: str,
    size: int,
    description: dict[str, Any],
    *,
    lost: str | None,
) -> tuple[StoredModel, bool]:
    text = json.dumps(description)
    now = clock.now()
    caller = context.caller

    def insert(tx: Transaction) -> tuple[StoredModel, bool]:
        store.insert(tx, model=model, folder_name=folder, size=size, description=text, created=now)
        if lost is not None:
            store.replace(tx, model, lost=lost, folder_name=folder)
        new = store.grant(tx, model, caller.name, created=now)
        if new:
            tokens.check_bytes(tx, caller.name, 0)
        return store.get(tx, model, owner=caller.scope), new

    return await context.ledger.write(insert)


def _check_limits(context: Context, tx: Transaction, size: int) -> None:
    tokens.check_bytes(tx, context.caller.name, size)
    usage.check_total(tx, context.settings, size)


@asynccontextmanager
async def as_onnx(context: Context, uploaded: Path) -> AsyncIterator[Path]:
    """Yield the uploaded file or, for an archive, the ONNX file that it was converted to.

    Raises:
        RefusedError: the file is not accepted.
        WorkerDiedError, WorkerDeadlineError, CapacityError: no worker could convert it.
    """
    if await asyncio.to_thread(_head, uploaded) != _ZIP:
        yield uploaded
        return
    folder = await asyncio.to_thread(context.blobs.workspace)
    try:
        yield await context.executor.convert(uploaded, folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_ZIP))
