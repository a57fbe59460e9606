"""The lifecycle of a recalibration, as one table.

Theory of operation. A recalibration is `open` while batches arrive. `start` seals the stream: it is
`sealed`, complete and closed, until the memory that its run may take is free. Then it is admitted
to the queue, which reserves that memory for it; where no limit is set, that happens at once. The
dispatcher begins it; the worker either finishes or fails. When the server
or the worker dies, the run is interrupted; it goes back into the queue and begins again from the
stored batches, which gives the same bytes. `cancel` is written to the ledger before the worker is
killed, so no crash can bring a cancelled run back. The three states in `ENDED` have no way out; an
event that arrives there late (a worker that finishes just after a cancel) raises `TransitionError`
and changes nothing.

The diagram in docs/service.md is generated from `TRANSITIONS` by `diagram()`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from service.errors import TransitionError


class State(StrEnum):
    """What a recalibration is doing."""

    OPEN = "open"
    SEALED = "sealed"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What happens to a recalibration."""

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

ENDED = frozenset(state for state, ways in TRANSITIONS.items() if not ways)


def after(state: State, event: Event) -> State:
    """Return the state that follows.

    Raises:
        TransitionError: the table has no such way.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise TransitionError(
            f"a recalibration that is {state} does not take the event {event}",
            state=str(state),
            event=str(event),
        ) from None


def diagram() -> str:
    """Draw the table as Mermaid text, one line for each way."""
    lines = ["stateDiagram-v2", "    [*] --> open"]
    for state, ways in TRANSITIONS.items():
        lines += [f"    {state} --> {target}: {event}" for event, target in ways.items()]
        if not ways:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
