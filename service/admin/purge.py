"""`purge`: delete recalibrations now instead of when their time is over."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin.ledger import alone, opened
from service.errors import TransitionError
from service.ledger.protocol import Transaction
from service.lifecycle import ENDED, State
from service.models import store as models
from service.recalibrations import retention, store


def add_command(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("purge", help="delete recalibrations with all their files")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--expired", action="store_true", help="those whose time is over")
    which.add_argument("--ended", action="store_true", help="all that have ended")
    which.add_argument("--id", action="append", help="this one; may be repeated")
    parser.set_defaults(run=run)


def run(folder: Path, args: Namespace) -> dict[str, Any]:
    """Delete recalibrations, and models that nobody holds any more.

    Rows go first, as a server does it: a file without a row is removed by the next sweep.

    Raises:
        NotFoundError: there is no recalibration of a given id.
        TransitionError: one has not ended, and a server may be working on it.
    """
    with opened(folder) as ledger, alone(folder) as ours:
        names = ledger.write(lambda tx: _forget(tx, args, alone=ours))
        unowned = ledger.write(lambda tx: _forget_models(tx, args))
        for name in names:
            shutil.rmtree(folder / store.folder(name), ignore_errors=True)
        for name in unowned:
            shutil.rmtree(folder / models.folder(name), ignore_errors=True)
    return {"recalibrations": names, "models": unowned}


def _forget(tx: Transaction, args: Namespace, *, alone: bool) -> list[str]:
    names = _chosen(tx, args)
    for name in names:
        found = store.get(tx, name)
        if not alone and found.state not in ENDED and not args.expired:
            raise TransitionError(
                f"{name} is {found.state} and a server is running: cancel it there first",
                state=str(found.state),
            )
        store.delete(tx, name)
    return names


def _chosen(tx: Transaction, args: Namespace) -> list[str]:
    if args.id is not None:
        return list(dict.fromkeys(args.id))
    if args.ended:
        return [one.id for state in State if state in ENDED for one in store.in_state(tx, state)]
    return retention.overdue(tx, args.settings)


def _forget_models(tx: Transaction, args: Namespace) -> list[str]:
    if args.expired:
        retention.expire_models(tx, args.settings)
    found = models.unowned(tx)
    for name in found:
        models.delete(tx, name)
    return found
