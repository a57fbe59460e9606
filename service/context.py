"""What every operation is given: the settings and the three seams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from service.blobs.protocol import Blobs
from service.executor.protocol import Executor
from service.ledger.protocol import Ledger
from service.settings import Settings
from service.signals import Signals
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Built once in the app's lifespan; operations take it as their first argument.

    `model_files` is held while a model's row and file change together: the same bytes can be
    uploaded again while they are being deleted. `json_parsing` is held while a large JSON body is
    parsed.
    """

    settings: Settings
    ledger: Ledger
    blobs: Blobs
    executor: Executor
    metrics: Metrics = field(default_factory=Metrics)
    signals: Signals = field(default_factory=Signals)
    model_files: asyncio.Lock = field(default_factory=asyncio.Lock)
    json_parsing: asyncio.Lock = field(default_factory=asyncio.Lock)


def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


Ctx = Annotated[Context, Depends(_context)]
