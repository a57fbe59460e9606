"""Several requests on their way at once, each with its own tries and pauses.

Theory of operation: the plans are stepped here, in turn; a driver only keeps their tries on the
way (`Post`) and says which has ended (`Await`). So back-off, progress and errors come out of one
place and in the caller's own thread, whatever the driver does to send several requests at once.

When a plan fails, no other begins; those on their way are waited for, without further tries. The
failure that is raised is that of the first plan in order of beginning, as if they had gone one
after another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bnrecal_client._http.messages import Response
from bnrecal_client._runtime.effects import Arrived, Await, Effect, Pause, Plan, Post, Send

__all__ = ["Window"]

# Windows delivers Ctrl-C only between two waits.
_LONGEST_WAIT_S = 1.0


class Window:
    """Plans under way, at most so many at once. They may send and pause, nothing else.

    Args:
        at_most: how many.
        clock: monotonic seconds, which a pause moves forward.
    """

    def __init__(self, at_most: int, clock: Callable[[], float]) -> None:
        self._at_most = at_most
        self._clock = clock
        self._begun = 0
        self._running: dict[int, Plan[None]] = {}
        self._due: dict[int, float] = {}  # the running ones that pause, and until when
        self._failed: dict[int, Exception] = {}

    def room(self) -> Plan[None]:
        """Wait until one more may begin.

        Raises:
            Exception: what the first plan that has failed has raised; none is under way then.
        """
        while len(self._running) >= self._at_most:
            yield from self._turn()
        if self._failed:
            yield from self.drain()

    def begin(self, plan: Plan[None]) -> Plan[None]:
        """Begin a plan, which goes on while others do."""
        ticket = self._begun
        self._begun += 1
        self._running[ticket] = plan
        yield from self._step(ticket, partial(next, plan))

    def drain(self) -> Plan[None]:
        """Wait until none is under way.

        Raises:
            Exception: as `room`.
        """
        while self._running:
            yield from self._turn()
        if self._failed:
            raise self._failed[min(self._failed)]

    def _turn(self) -> Plan[None]:
        """Let one plan go on: one that has an answer, or one whose pause is over."""
        first = min(self._due, key=self._due.__getitem__, default=None)
        left = _LONGEST_WAIT_S if first is None else self._due[first] - self._clock()
        if first is not None and (left <= 0 or len(self._due) == len(self._running)):
            if left > 0:
                yield Pause(left)
            del self._due[first]
            yield from self._step(first, partial(next, self._running[first]))
            return
        arrived: Arrived | None = yield Await(min(left, _LONGEST_WAIT_S))
        if arrived is not None:
            plan, outcome = self._running[arrived.ticket], arrived.outcome
            resume = plan.send if isinstance(outcome, Response) else plan.throw
            yield from self._step(arrived.ticket, partial(resume, outcome))

    def _step(self, ticket: int, resume: Callable[[], Effect]) -> Plan[None]:
        try:
            effect = resume()
        except StopIteration:
            del self._running[ticket]
        except Exception as error:  # noqa: BLE001 - kept, and raised in its turn
            del self._running[ticket]
            self._failed[ticket] = error
            self._give_up_pausing()
        else:
            yield from self._do(ticket, effect)

    def _do(self, ticket: int, effect: Effect) -> Plan[None]:
        if isinstance(effect, Send):
            yield Post(ticket, effect.request)
            return
        assert isinstance(effect, Pause)
        self._due[ticket] = self._clock() + effect.seconds
        if self._failed:
            self._give_up_pausing()

    def _give_up_pausing(self) -> None:
        for ticket in self._due:
            self._running.pop(ticket).close()
        self._due.clear()
