"""The context that every operation receives: settings, stores, executor and caller."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Request

from service.repositories.batches import InputsCache
from service.settings import Settings
from service.signals import Signals
from service.storage.blobs.protocol import Blobs
from service.storage.import_sources import ImportSources
from service.storage.ledger.protocol import Ledger
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Telemetry
from service.workers.protocol import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: name of the token, which owns what the caller creates; empty without a named token.
        sees_all: whether the data of all owners is visible.
    """

    name: str
    sees_all: bool

    @property
    def scope(self) -> str | None:
        """The owner whose data is visible; None for the data of all owners."""
        return None if self.sees_all else self.name


EVERYTHING = Caller(name="", sees_all=True)
"""The server itself, clients on loopback without tokens, and tokens from the settings."""

NOTHING = Caller(name="", sees_all=False)
"""A request that was not authenticated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Built once in the app's lifespan; the first argument of every operation.

    Attributes:
        settings: settings of the server.
        ledger, blobs, executor: the stores, and the workers.
        process: random id of this process, by which the ledger names who runs a recalibration.
        caller: sender of the request; outside of requests, the server itself.
        inputs: cached inputs of recalibrations.
        imports: the objects that may be imported.
        metrics, signals: shared by all requests.
        telemetry: what OpenTelemetry receives.
        json_parsing: held while a large JSON body is parsed.
    """

    settings: Settings
    ledger: Ledger
    blobs: Blobs
    executor: Executor
    caller: Caller = EVERYTHING
    inputs: InputsCache = field(default_factory=InputsCache)
    imports: ImportSources = field(default_factory=ImportSources)
    metrics: Metrics = field(default_factory=Metrics)
    signals: Signals = field(default_factory=Signals)
    telemetry: Telemetry = field(default_factory=Telemetry)
    process: str = field(default_factory=lambda: secrets.token_hex(16))
    json_parsing: asyncio.Lock = field(default_factory=asyncio.Lock)


async def context_of(request: Request) -> Context:
    """Return the context of a request.

    A coroutine although it awaits nothing: the framework runs plain functions in a thread.
    """
    context = request.app.state.context
    assert isinstance(context, Context)
    # If a request ever bypasses authentication, it sees nothing.
    caller = request.scope.get("state", {}).get("caller", NOTHING)
    return context if caller is context.caller else replace(context, caller=caller)


Ctx = Annotated[Context, Depends(context_of)]
