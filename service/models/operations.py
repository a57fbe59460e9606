"""What can be done with models."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service import clock
from service.context import Context
from service.errors import ModelInUseError, WorkerDiedError
from service.models import conversion
from service.repositories import models as store
from service.repositories import tokens
from service.repositories import usage as room
from service.repositories.models import StoredModel
from service.storage.blobs.protocol import Draft
from service.storage.ledger.protocol import Transaction
from service.web import content_digest as digests


async def upload(
    context: Context, body: AsyncIterator[bytearray], *, digest: str | None
) -> tuple[StoredModel, bool]:
    """Take in a model; returns it, and whether it is new to the caller.

    What others hold is neither shown nor saved work: a worker reads the bytes again.

    The bytes reach the disk and a worker, never a parser in this process. A refused model leaves
    nothing behind.

    Raises:
        RefusedError: the worker does not take it.
        WorkerDiedError: one worker after the other died over it.
        DigestMismatchError: the body is not what the client announced.
        QuotaError: the token keeps as much as it may.
        CapacityError: it could not be stored.
    """
    draft = await asyncio.to_thread(context.blobs.draft)
    try:
        model = await _receive(draft, body)
        digests.verify(digest, model)
        if (known := await _whole(context, model, context.caller.scope)) is not None:
            await _touch(context, model)
            return known, False
        async with conversion.as_onnx(context, draft.path) as file:
            description = await _describe(context, file)
            size = (await asyncio.to_thread(file.stat)).st_size
            await context.ledger.read(lambda tx: _refuse_over_quota(context, tx, size))
            async with context.model_files:
                # The same bytes may have come meanwhile. Their file must stay the one that it is: a
                # worker's sandbox lets it open that file and no other that takes its name.
                if await _whole(context, model) is None:
                    await asyncio.to_thread(_keep, context, draft, file, store.key(model))
                return await _record(context, model, size, description)
    finally:
        await asyncio.to_thread(draft.discard)


def _keep(context: Context, draft: Draft, file: Path, key: str) -> None:
    if file == draft.path:
        draft.commit(key)
    else:
        context.blobs.adopt(file, key)


async def delete(context: Context, model: str) -> None:
    """Delete a model; what others hold, too, stays for them.

    Raises:
        NotFoundError: there is none.
        ModelInUseError: a recalibration of the caller that has not ended uses it.
    """
    scope = context.caller.scope

    def forget(tx: Transaction) -> bool:
        store.get(tx, model, owner=scope)
        if users := store.users(tx, model, owner=scope):
            raise ModelInUseError(
                f"{users} recalibrations that have not ended use the model", users=users
            )
        if scope is not None and (store.revoke(tx, model, scope) or store.users(tx, model)):
            return False
        store.delete(tx, model)
        return True

    async with context.model_files:
        if await context.ledger.write(forget):
            await asyncio.to_thread(context.blobs.remove, store.folder(model))


async def remove_unowned(context: Context) -> list[str]:
    """Remove models that nobody holds and no recalibration needs; return them."""

    def forget(tx: Transaction) -> list[str]:
        found = store.unowned(tx)
        for model in found:
            store.delete(tx, model)
        return found

    async with context.model_files:
        removed = await context.ledger.write(forget)
        for model in removed:
            await asyncio.to_thread(context.blobs.remove, store.folder(model))
    return removed


async def _describe(context: Context, file: Path) -> dict[str, Any]:
    """Let a worker read a model; one that dies is replaced as often as a run's worker is."""
    for _ in range(context.settings.worker_deaths - 1):
        with contextlib.suppress(WorkerDiedError):
            return await context.executor.describe(file)
    return await context.executor.describe(file)


async def _whole(context: Context, model: str, owner: str | None = None) -> StoredModel | None:
    """Return a model that is there, row and file: a disk may have lost the file.

    With an owner, only where it holds the model.
    """
    found = await context.ledger.read(lambda tx: store.find(tx, model, owner=owner))
    path = context.blobs.path(store.key(model))
    return found if found is not None and await asyncio.to_thread(path.exists) else None


async def _touch(context: Context, model: str) -> None:
    """Let the time after which an unused model expires begin anew."""
    now = datetime.now(UTC)
    # Often enough that it never expires, seldom enough that few requests wait for a commit.
    before = now - timedelta(seconds=min(86400.0, context.settings.keep_model_seconds / 2))
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
    context: Context, model: str, size: int, description: dict[str, Any]
) -> tuple[StoredModel, bool]:
    text = json.dumps(description)
    now = clock.now()
    caller = context.caller

    def insert(tx: Transaction) -> tuple[StoredModel, bool]:
        store.insert(tx, model=model, size=size, description=text, created=now)
        new = store.grant(tx, model, caller.name, created=now)
        if new:
            tokens.require_bytes(tx, caller.name, 0)
        return store.get(tx, model, owner=caller.scope), new

    return await context.ledger.write(insert)


def _refuse_over_quota(context: Context, tx: Transaction, size: int) -> None:
    tokens.require_bytes(tx, context.caller.name, size)
    room.require(tx, context.settings, size)
