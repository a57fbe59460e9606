"""What becomes of a run that was cut off."""

from __future__ import annotations

from service import problems
from service.errors import ServiceError, WorkerDiedError
from service.recalibrations import events as changes
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.ledger.protocol import Transaction


def take_up(tx: Transaction, settings: Settings) -> list[Recalibration]:
    """At the start of a server: queue what ran when the last one ended; return it as it is then.

    What was begun too often, whoever died each time, ends `failed` instead: it may be what kills
    us.
    """
    return [_take_up(tx, found, settings) for found in store.in_state(tx, State.RUNNING)]


def _take_up(tx: Transaction, found: Recalibration, settings: Settings) -> Recalibration:
    if found.attempts < settings.attempts:
        return changes.advance(tx, found.id, Event.INTERRUPT)
    cause = WorkerDiedError(
        f"the run was begun {found.attempts} times and was cut off each time",
        attempts=found.attempts,
    )
    return changes.fail(tx, found.id, problems.from_error(cause))


def after_death(tx: Transaction, name: str, cause: Exception, settings: Settings) -> None:
    """After a worker's death: queue the run again, or fail it when that happens again and again."""
    if (found := store.find_running(tx, name)) is None:
        return
    store.count_death(tx, name)
    deaths = found.worker_deaths + 1
    if deaths < settings.worker_deaths:
        changes.advance(tx, name, Event.INTERRUPT)
        return
    error = WorkerDiedError(
        f"the worker died {deaths} times; the last time: {cause}", deaths=deaths
    )
    changes.fail(tx, name, problems.from_error(error))


def after_refusal(tx: Transaction, name: str, cause: ServiceError, settings: Settings) -> None:
    """After this machine could not do it now (disk full, no process): queue the run again.

    That is no fault of the work, so it counts as an attempt and not as a death.
    """
    if (found := store.find_running(tx, name)) is None:
        return
    if found.attempts >= settings.attempts:
        changes.fail(tx, name, problems.from_error(cause))
    else:
        changes.advance(tx, name, Event.INTERRUPT)


def give_back(tx: Transaction, name: str) -> None:
    """At an orderly shutdown: queue the run again without counting it."""
    if store.find_running(tx, name) is None:
        return
    store.uncount_attempt(tx, name)
    changes.advance(tx, name, Event.INTERRUPT)
