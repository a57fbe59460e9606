"""One-shot requests under an Idempotency-Key: the same form again finds the same recalibration."""

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
    """A key with what it stands for.

    Attributes:
        scope: the route and whoever asks: a key is its owner's.
        key: as the client sent it.
        request: fingerprint of model, options and data.
    """

    scope: str
    key: str
    request: str

    async def recall(self, context: Context) -> str | None:
        """Return the recalibration that the key stands for; None when there is none (any more).

        Raises:
            IdempotencyKeyReusedError: the key came with another form.
        """
        return await context.ledger.read(self._find)

    async def settle(self, context: Context, name: str) -> str:
        """Let the key stand for a recalibration, unless another request was faster: return its."""

        def work(tx: Transaction) -> str:
            if (known := self._find(tx)) is not None:
                return known
            idempotency.remember(
                tx, scope=self.scope, key=self.key, request=self.request, response=name
            )
            return name

        return await context.ledger.write(work)

    def _find(self, tx: Transaction) -> str | None:
        known = idempotency.recall(tx, scope=self.scope, key=self.key, request=self.request)
        return known if known is not None and store.find(tx, known) is not None else None


async def replay(
    context: Context, key: str, asked: RecalibrationIn, data: Sequence[File]
) -> Replay:
    """Look at a whole form; `asked` names its model."""
    digests = [await asyncio.to_thread(sha256_of, file.draft.path) for file in data]
    told = "\n".join([asked.model_dump_json(), *digests])
    return Replay(
        scope=idempotency.scope_of("POST /v1/recalibrate", context.caller.name),
        key=key,
        request=idempotency.fingerprint(told.encode()),
    )
