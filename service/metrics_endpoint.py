"""The response of `/metrics`: what was counted, and gauges that are read for each scrape."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from service.context import Context
from service.repositories import recalibrations, usage
from service.storage.ledger.protocol import Transaction


async def read(context: Context) -> bytes:
    """Return all metrics in Prometheus' text format."""
    metrics = context.metrics
    states, stored = await context.ledger.read(_counts)
    for state, count in states.items():
        metrics.recalibrations.labels(state=state).set(count)
    metrics.stored_bytes.set(stored)
    metrics.stored_limit_bytes.set(context.settings.total_limit_bytes)
    metrics.disk_free_bytes.set(await asyncio.to_thread(_free, context.settings.data_dir))
    for part, failure in (("ledger", context.ledger.failure), ("blobs", context.blobs.failure)):
        metrics.storage_failed.labels(part=part).set(failure is not None)
    return metrics.render()


def _counts(tx: Transaction) -> tuple[dict[str, float], float]:
    return dict(recalibrations.counts(tx)), usage.stored_bytes(tx)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
