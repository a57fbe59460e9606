"""Idempotency keys of one-shot requests: a repeated form finds its recalibration."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.context import Context
from service.oneshot.form import File
from service.recalibrations.schemas import RecalibrationIn
from service.repositories import idempotency
from service.repositories import recalibrations as store
from service.storage.checksums import sha256_of
from service.storage.ledger.protocol import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """An idempotency key and the request that it belongs to.

    Attributes:
        scope: the route and the caller, who owns the key.
        key: the value that the client sent.
        request: fingerprint of model, options and data.
    """

    scope: str
    key: str
    request: str

    async def lookup(self, context: Context) -> str | None:
        """Return the id of the key's recalibration; None if it does not exist or was deleted.

        Raises:
            IdempotencyKeyReusedError: the key was used with another form.
        """
        return await context.ledger.read(self._find)

    async def bind(self, context: Context, recalibration_id: str) -> str:
        """Bind the key to a recalibration; return its id, or that of a concurrent request."""

        def work(tx: Transaction) -> str:
            if (known := self._find(tx)) is not None:
                return known
            idempotency.store_response(
                tx, scope=self.scope, key=self.key, request=self.request, response=recalibration_id
            )
            return recalibration_id

        return await context.ledger.write(work)

    def _find(self, tx: Transaction) -> str | None:
        known = idempotency.lookup(tx, scope=self.scope, key=self.key, request=self.request)
        return known if known is not None and store.find(tx, known) is not None else None


async def replay(
    context: Context,
    key: str,
    asked: RecalibrationIn,
    data: Sequence[File],
    source: Sequence[File],
) -> Replay:
    """Return the key of a complete form; `asked` names its model."""
    digests = [await asyncio.to_thread(sha256_of, file.draft.path) for file in data]
    told = "\n".join([asked.model_dump_json(), *digests])
    if source:  # a form without source files keeps the fingerprint that earlier versions stored
        digests = [await asyncio.to_thread(sha256_of, file.draft.path) for file in source]
        told = "\n".join([told, "source", *digests])
    return Replay(
        scope=idempotency.scope_of("POST /v1/recalibrate", context.caller.name),
        key=key,
        request=idempotency.fingerprint(told.encode()),
    )
