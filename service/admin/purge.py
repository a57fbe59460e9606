"""`purge`: delete recalibrations before they expire.

Deletion works as in the server: rows are deleted first, a long stream in several transactions, and
the next cleanup removes files without a row.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin.blob_files import open_files
from service.errors import TransitionError
from service.recalibrations import retention
from service.repositories import models
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, State
from service.repositories.records import Recalibration
from service.storage.data_folder import try_exclusive
from service.storage.ledger.maintenance import MaintenanceLedger, open_ledger
from service.storage.ledger.protocol import Transaction


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("purge", help="delete recalibrations with all their files")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--expired", action="store_true", help="expired recalibrations")
    which.add_argument("--ended", action="store_true", help="all recalibrations that have ended")
    which.add_argument(
        "--id", action="append", metavar="ID", help="one recalibration; may be repeated"
    )
    parser.set_defaults(run=run, needs_folder=True)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Delete recalibrations and the models that have no owner any more.

    Raises:
        NotFoundError: there is no recalibration with a given id.
        TransitionError: a recalibration has not ended, and a server may be running it.
    """
    files = open_files(args.settings)
    with open_ledger(folder, args.settings.ledger) as ledger, try_exclusive(folder) as alone:
        # Servers on other machines share a PostgreSQL database.
        exclusive = alone and not args.settings.ledger
        selected = ledger.read(lambda tx: _selected(tx, args, exclusive=exclusive))
        deleted = [one for one in selected if _delete(ledger, one, args, exclusive=exclusive)]
        for recalibration_id in deleted:
            files.remove(store.folder(recalibration_id))
        if args.expired:
            ledger.write(lambda tx: retention.expire_models(tx, args.settings))
        unowned = ledger.write(models.delete_unowned)
        for model in unowned:
            files.remove(models.folder(model.folder))
    return {"recalibrations": deleted, "models": [one.id for one in unowned]}


def _selected(tx: Transaction, args: Namespace, *, exclusive: bool) -> list[str]:
    if args.expired:
        return retention.overdue(tx, args.settings)
    if args.ended:
        return [one.id for state in State if state in ENDED for one in store.in_state(tx, state)]
    found = [store.get(tx, one) for one in dict.fromkeys(args.id)]
    for one in found:
        _check_idle(one, exclusive=exclusive)
    return [one.id for one in found]


def _check_idle(found: Recalibration, *, exclusive: bool) -> None:
    if not exclusive and found.state not in ENDED:
        raise TransitionError(
            f"{found.id} is {found.state} and a server is running: cancel it there first",
            state=str(found.state),
        )


def _delete(
    ledger: MaintenanceLedger, recalibration_id: str, args: Namespace, *, exclusive: bool
) -> bool:
    """Delete a recalibration; return False if it no longer exists or is no longer expired."""

    def begin(tx: Transaction) -> bool | None:
        if args.expired:
            return retention.delete_overdue(tx, args.settings, recalibration_id)
        found = store.find(tx, recalibration_id)
        if found is None:
            return None
        _check_idle(found, exclusive=exclusive)
        return retention.delete(tx, args.settings, recalibration_id)

    deleted = ledger.write(begin)
    if deleted is False:
        while ledger.write(lambda tx: retention.delete_part(tx, args.settings, recalibration_id)):
            pass
    return deleted is not None
