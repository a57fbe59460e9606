"""`list`: what is kept, for whom, and how large it is."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin.ledger import opened
from service.storage.ledger.protocol import Transaction

# Recalibrations with what they keep.
RECALIBRATIONS = """
SELECT id, nullif(owner, '') AS owner, state, received AS batches,
       CASE WHEN data_removed THEN 0 ELSE bytes END AS batch_bytes,
       (SELECT coalesce(sum(bytes), 0) FROM result WHERE recalibration = id) AS result_bytes,
       model, created, ended
FROM recalibration ORDER BY seq
"""
# Models with how many hold and use them.
MODELS = """
SELECT id, bytes, created,
       (SELECT group_concat(owner, ' ') FROM model_owner WHERE model = id AND owner <> '')
           AS owners,
       (SELECT count(*) FROM recalibration WHERE model = model.id) AS recalibrations
FROM model ORDER BY seq
"""
_SIZES = ("bytes", "batch_bytes", "result_bytes")


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("list", help="list models and recalibrations with their sizes")
    parser.add_argument("--state", help="only recalibrations in this state")
    parser.set_defaults(run=run)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Return everything that is kept, oldest first, and the sum of the sizes."""

    def look(tx: Transaction) -> dict[str, Any]:
        kept = [dict(row) for row in tx.rows(RECALIBRATIONS)]
        models = [dict(row) for row in tx.rows(MODELS)]
        total = sum(int(row.get(name) or 0) for row in [*kept, *models] for name in _SIZES)
        shown = [row for row in kept if args.state in (None, row["state"])]
        return {"recalibrations": shown, "models": models, "total_bytes": total}

    with opened(folder) as ledger:
        return ledger.read(look)
