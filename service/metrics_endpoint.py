"""What `/metrics` answers: what was counted, and what is looked up when somebody asks."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from bn_ops.version import __version__
from service.context import Context
from service.repositories import recalibrations
from service.repositories import usage as room
from service.storage.ledger.protocol import Transaction
from service.telemetry import process
from service.telemetry.metrics import Family, Gauge, render

INFO = Gauge("bnrecal_info", "Always 1; its label is the server's version.", "version")
STATES = Gauge("bnrecal_recalibrations", "Recalibrations; `queued` is the queue.", "state")
STORED = Gauge("bnrecal_stored_bytes", "Bytes of models and batches, as the total limit counts.")
STORED_LIMIT = Gauge("bnrecal_stored_limit_bytes", "The total limit.")
FREE = Gauge("bnrecal_disk_free_bytes", "Free bytes of the data folder's file system.")
FAILED = Gauge("bnrecal_storage_failed", "1 when nothing is stored until a restart.", "part")
GAUGES = (INFO, STATES, STORED, STORED_LIMIT, FREE, FAILED, *process.GAUGES)


async def read(context: Context) -> str:
    """Return all figures in Prometheus' text format."""
    states, stored = await context.ledger.read(_counts)
    folder = context.settings.data_dir
    failed = {"ledger": context.ledger.failure, "blobs": context.blobs.failure}
    looked_up: list[Family] = [
        INFO.showing({__version__: 1}),
        STATES.showing(states),
        STORED.showing({"": stored}),
        STORED_LIMIT.showing({"": context.settings.total_limit_bytes}),
        FREE.showing({"": await asyncio.to_thread(_free, folder)}),
        FAILED.showing({part: failure is not None for part, failure in failed.items()}),
        *process.read(),
    ]
    return render([*context.metrics.families(), *looked_up])


def _counts(tx: Transaction) -> tuple[dict[str, float], float]:
    return dict(recalibrations.counts(tx)), room.stored_bytes(tx)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
