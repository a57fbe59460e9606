"""The lifecycle of a recalibration, as one table.

Theory of operation. A recalibration is `open` while batches arrive. `start` seals the stream: the
recalibration is `sealed` until the memory that its run may use is free. Then it is admitted to the
queue and reserves that memory; without a memory limit, that happens at once. The dispatcher starts
the run, and the worker either finishes or fails. When the server or the worker dies, the run is
interrupted: it returns to the queue and starts again from the stored batches, which gives the same
bytes. `cancel` is written to the ledger before the worker is killed, so a crash cannot bring back a
cancelled run. The three states in `ENDED` are final: an event that arrives too late, such as a
worker that finishes just after a cancellation, raises `TransitionError` and changes nothing.

A test compares the diagram in docs/service.md with `TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from service.errors import TransitionError


class State(StrEnum):
    """State of a recalibration."""

    OPEN = "open"
    SEALED = "sealed"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """Event in the life of a recalibration."""

    START = "start"
    ADMIT = "admit"
    BEGIN = "begin"
    INTERRUPT = "interrupt"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.OPEN: {Event.START: State.SEALED, Event.CANCEL: State.CANCELLED},
        State.SEALED: {Event.ADMIT: State.QUEUED, Event.CANCEL: State.CANCELLED},
        State.QUEUED: {
            Event.BEGIN: State.RUNNING,
            Event.FAIL: State.FAILED,
            Event.CANCEL: State.CANCELLED,
        },
        State.RUNNING: {
            Event.INTERRUPT: State.QUEUED,
            Event.FINISH: State.SUCCEEDED,
            Event.FAIL: State.FAILED,
            Event.CANCEL: State.CANCELLED,
        },
        State.SUCCEEDED: {},
        State.FAILED: {},
        State.CANCELLED: {},
    }
)

ENDED = frozenset(state for state, events in TRANSITIONS.items() if not events)


def after(state: State, event: Event) -> State:
    """Return the state that follows an event.

    Raises:
        TransitionError: the state does not allow the event.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise TransitionError(
            f"{event} is not possible: the recalibration is in the state {state}",
            state=str(state),
            event=str(event),
        ) from None
