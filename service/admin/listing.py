"""`list`: show all models and recalibrations with their owners and sizes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from service.repositories.usage import inventory
from service.storage.ledger.maintenance import open_ledger

_SIZES = ("bytes", "batch_bytes", "result_bytes")


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("list", help="list models and recalibrations with their sizes")
    parser.add_argument("--state", help="only recalibrations in this state")
    parser.set_defaults(run=run, needs_folder=True)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Return everything that is stored, oldest first, and the total size."""
    with open_ledger(folder, args.settings.ledger) as ledger:
        recalibrations, models = ledger.read(inventory)
    total = sum(int(row.get(name) or 0) for row in [*recalibrations, *models] for name in _SIZES)
    shown = [row for row in recalibrations if args.state in (None, row["state"])]
    return {"recalibrations": shown, "models": models, "total_bytes": total}
