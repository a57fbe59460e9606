from __future__ import annotations

import itertools

import pytest

from service.errors import TransitionError
from service.lifecycle import ENDED, TRANSITIONS, Event, State, after

# Written down a second time on purpose: a change of the table must be meant.
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
def test_each_event_in_each_state_does_what_the_table_says(state: State, event: Event) -> None:
    target = WAYS.get((str(state), str(event)))
    if target is None:
        with pytest.raises(TransitionError) as caught:
            after(state, event)
        assert caught.value.details == {"state": str(state), "event": str(event)}
    else:
        assert after(state, event) == target


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {State.OPEN}
    for _ in State:
        reached |= {target for state in reached for target in TRANSITIONS[state].values()}
    assert reached == set(State)


def test_ended_states_have_no_way_out() -> None:
    assert {"succeeded", "failed", "cancelled"} == ENDED
