"""`purge`: delete recalibrations now instead of when their time is over.

It does as a server does: rows go first, a long stream bit by bit, and a file without a row is
removed by the next sweep. Models are another matter: the same bytes can be uploaded while their row
and their file go, and only the server's own lock keeps these two together. So beside a running
server, models that nobody holds any more are left to its next sweep.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin.ledger import AdminLedger, alone, opened
from service.errors import TransitionError
from service.recalibrations import retention
from service.repositories import models
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, State
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("purge", help="delete recalibrations with all their files")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--expired", action="store_true", help="those whose time is over")
    which.add_argument("--ended", action="store_true", help="all that have ended")
    which.add_argument("--id", action="append", metavar="ID", help="this one; may be repeated")
    parser.set_defaults(run=run)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Delete recalibrations, and, without a running server, models that nobody holds any more.

    Raises:
        NotFoundError: there is no recalibration of a given id.
        TransitionError: one has not ended, and a server may be working on it.
    """
    with opened(folder) as ledger, alone(folder) as ours:
        chosen = ledger.read(lambda tx: _chosen(tx, args, alone=ours))
        names = [name for name in chosen if _forget(ledger, name, args, alone=ours)]
        for name in names:
            shutil.rmtree(folder / store.folder(name), ignore_errors=True)
        if args.expired:
            ledger.write(lambda tx: retention.expire_models(tx, args.settings))
        unowned = ledger.write(_forget_models) if ours else []
        for name in unowned:
            shutil.rmtree(folder / models.folder(name), ignore_errors=True)
    return {"recalibrations": names, "models": unowned}


def _chosen(tx: Transaction, args: Namespace, *, alone: bool) -> list[str]:
    if args.expired:
        return retention.overdue(tx, args.settings)
    if args.ended:
        return [one.id for state in State if state in ENDED for one in store.in_state(tx, state)]
    found = [store.get(tx, name) for name in dict.fromkeys(args.id)]
    for one in found:
        _refuse_under_way(one, alone=alone)
    return [one.id for one in found]


def _refuse_under_way(found: Recalibration, *, alone: bool) -> None:
    if not alone and found.state not in ENDED:
        raise TransitionError(
            f"{found.id} is {found.state} and a server is running: cancel it there first",
            state=str(found.state),
        )


def _forget(ledger: AdminLedger, name: str, args: Namespace, *, alone: bool) -> bool:
    """Delete one; False where a server was faster, or it has got a batch meanwhile."""

    def begin(tx: Transaction) -> bool | None:
        if args.expired:
            return retention.forget_overdue(tx, args.settings, name)
        found = store.find(tx, name)
        if found is None:
            return None
        _refuse_under_way(found, alone=alone)
        return retention.forget(tx, name)

    forgotten = ledger.write(begin)
    if forgotten is False:
        while ledger.write(lambda tx: retention.forget_more(tx, name)):
            pass
    return forgotten is not None


def _forget_models(tx: Transaction) -> list[str]:
    found = models.unowned(tx)
    for name in found:
        models.delete(tx, name)
    return found
