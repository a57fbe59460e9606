"""What every operation is given: the settings and the three seams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Request

from service.batches.inputs import KnownInputs
from service.callers import EVERYTHING, NOTHING, Caller
from service.settings import Settings
from service.signals import Signals
from service.storage.blobs.protocol import Blobs
from service.storage.ledger.protocol import Ledger
from service.telemetry.metrics import Metrics
from service.workers.protocol import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Built once in the app's lifespan; operations take it as their first argument.

    `model_files` is held while a model's row and file change together: the same bytes can be
    uploaded again while they are being deleted. `json_parsing` is held while a large JSON body is
    parsed. `caller` is whoever a request comes from; outside of requests, the server itself.
    """

    settings: Settings
    ledger: Ledger
    blobs: Blobs
    executor: Executor
    caller: Caller = EVERYTHING
    inputs: KnownInputs = field(default_factory=KnownInputs)
    metrics: Metrics = field(default_factory=Metrics)
    signals: Signals = field(default_factory=Signals)
    model_files: asyncio.Lock = field(default_factory=asyncio.Lock)
    json_parsing: asyncio.Lock = field(default_factory=asyncio.Lock)


async def context_of(request: Request) -> Context:
    """Return the context of a request.

    A coroutine, although it waits for nothing: the framework sends plain functions to a thread.
    """
    context = request.app.state.context
    assert isinstance(context, Context)
    # Whoever was not let in by name sees nothing, should a request ever get past the door.
    caller = request.scope.get("state", {}).get("caller", NOTHING)
    return context if caller is context.caller else replace(context, caller=caller)


Ctx = Annotated[Context, Depends(context_of)]
