from __future__ import annotations

import itertools

import apsw
import pytest

from service.errors import TransitionError
from service.repositories import models
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, TRANSITIONS, Event, State, after
from service.storage.ledger import schema
from service.storage.ledger.connection import SqliteTransaction

# A second copy on purpose: a change of the table must be intended.
WAYS = {
    ("open", "start"): "sealed",
    ("open", "cancel"): "cancelled",
    ("sealed", "admit"): "queued",
    ("sealed", "cancel"): "cancelled",
    ("queued", "begin"): "running",
    ("queued", "fail"): "failed",
    ("queued", "cancel"): "cancelled",
    ("running", "interrupt"): "queued",
    ("running", "finish"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "cancel"): "cancelled",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_transitions(state: State, event: Event) -> None:
    target = WAYS.get((str(state), str(event)))
    if target is None:
        with pytest.raises(TransitionError) as caught:
            after(state, event)
        assert caught.value.details == {"state": str(state), "event": str(event)}
    else:
        assert after(state, event) == target


def test_every_state_is_reachable() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.OPEN}
    for _ in State:
        reached |= {target for state in reached for target in TRANSITIONS[state].values()}
    assert reached == set(State)


def test_final_states() -> None:
    assert {"succeeded", "failed", "cancelled"} == ENDED


def test_ledger_marks_final_states() -> None:
    """Queries use the column `ended`; it is set by exactly the transitions to final states."""
    connection = apsw.Connection(":memory:")
    for migration in schema.MIGRATIONS:
        connection.execute(migration)
    tx = SqliteTransaction(connection)
    content = {"inputs": "[]", "options": "{}"}
    store.insert(tx, recalibration_id="r", owner="", model="m", keep_data=False, **content)
    for state, ways in TRANSITIONS.items():
        for event, target in ways.items():
            tx.change("UPDATE recalibration SET state = :state, ended = NULL", state=state)
            store.move(tx, "r", event)
            assert (store.get(tx, "r").ended is not None) == (target in ENDED)
            assert (models.users(tx, "m") == 0) == (target in ENDED)
            assert (store.with_data_to_remove(tx) == ["r"]) == (target in ENDED)
    connection.close()
