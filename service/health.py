"""Liveness, readiness and metrics of the server."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from service.context import Context, Ctx
from service.errors import ForbiddenError, ServiceError
from service.repositories import recalibrations, usage
from service.storage.ledger.protocol import Transaction
from service.telemetry import metrics

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process is running."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Readiness and sandbox of the server; `failures` is empty if the server is ready.

    `warnings` names what a failure of the ledger's database would lose.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "failures": [],
                    "ledger": "SQLite 3.54.1",
                    "warnings": [],
                    "workers": {"rlimits": True, "landlock": True, "seccomp": True},
                }
            ]
        }
    )

    status: Literal["ready", "not-ready"]
    failures: list[str]
    ledger: str
    warnings: list[str]
    workers: dict[str, Any]


async def check(context: Context) -> tuple[list[str], dict[str, Any]]:
    """Return why the server is not ready (empty if it is), and the sandbox of its workers."""
    stores = (context.ledger.failure, await context.blobs.check())
    failures = [one for one in stores if one is not None]
    try:
        return failures, dict(await context.executor.sandbox_status())
    except ServiceError as error:
        return [*failures, error.message], {}


@router.get("/healthz")
async def healthz() -> Health:
    """Return whether the process is running."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def readyz(context: Ctx, response: Response) -> Readiness:
    """Return whether batches can be stored and runs can start, and the sandbox of the workers."""
    failures, workers = await check(context)
    warnings: list[str] = []
    try:
        warnings = await context.ledger.warnings()
    except ServiceError as error:
        failures = [*failures, error.message]
    response.status_code = 503 if failures else 200
    return Readiness(
        status="not-ready" if failures else "ready",
        failures=failures,
        ledger=context.ledger.version,
        warnings=warnings,
        workers=workers,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def get_metrics(context: Ctx) -> Response:
    """Return the metrics in Prometheus' text format; they cover the work of all callers."""
    if not context.caller.sees_all:
        raise ForbiddenError("the metrics cover the work of all callers: use an admin token")
    return Response(await read_metrics(context), media_type=metrics.MEDIA_TYPE)


async def read_metrics(context: Context) -> bytes:
    """Return all metrics in Prometheus' text format; gauges are read for each call."""
    await set_gauges(context)
    return context.metrics.render()


async def set_gauges(context: Context) -> None:
    """Set the gauges of the server's state.

    What all processes share is counted once: only the process that leads reports it.
    """
    state = context.metrics.state
    leads = await context.ledger.leads()
    context.metrics.show_shared(leads)
    if leads:
        counts, stored = await context.ledger.read(_counts)
        for name, count in counts.items():
            state.recalibrations.labels(state=name).set(count)
        state.stored_bytes.set(stored)
    state.stored_limit_bytes.set(context.settings.total_limit_bytes)
    state.disk_free_bytes.set(await asyncio.to_thread(_free, context.settings.data_dir))
    for part, failure in (("ledger", context.ledger.failure), ("blobs", context.blobs.failure)):
        state.storage_failed.labels(part=part).set(failure is not None)


def _counts(tx: Transaction) -> tuple[dict[str, float], float]:
    return dict(recalibrations.counts(tx)), usage.stored_bytes(tx)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
