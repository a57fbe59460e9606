"""Several plans at once, against any order of answers: as if they had gone one after another."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnrecal_client._http.messages import Request, Response
from bnrecal_client._runtime.concurrency import Window
from bnrecal_client._runtime.effects import Arrived, Await, Effect, Pause, Plan, Post, Send

OK = Response(status=200, headers={}, body=b"")


class RefusedError(Exception):
    """What a plan of these tests fails with; its argument is the plan's number."""


def job(
    number: int, tries: int, done: list[int], failed: list[int], *, refused: bool
) -> Plan[None]:
    """Send so many times with pauses between; then be done, or fail."""
    for attempt in range(tries):
        if attempt:
            yield Pause(0.5 * attempt)
        yield Send(Request(method="PUT", path=f"/{number}"))
    if refused:
        failed.append(number)
        raise RefusedError(number)
    done.append(number)


def all_jobs(
    window: Window, jobs: list[tuple[int, bool]], done: list[int], failed: list[int]
) -> Plan[None]:
    for number, (tries, refused) in enumerate(jobs):
        yield from window.room()
        yield from window.begin(job(number, tries, done, failed, refused=refused))
    yield from window.drain()


class AnyOrder:
    """A driver whose answers come in an order that is drawn, with time that only pauses move."""

    def __init__(self, data: st.DataObject) -> None:
        self.now = 0.0
        self.most = 0
        self.sent: list[str] = []
        self.failed: list[int] = []
        self._data = data
        self._posted: list[Post] = []

    def play(self, plan: Generator[Effect, Any, None]) -> None:
        outcome: object = None
        while True:
            try:
                effect = plan.send(outcome)
            except StopIteration:
                assert not self._posted
                return
            outcome = self._do(effect)

    def _do(self, effect: Effect) -> object:
        if isinstance(effect, Post):
            assert not self.failed, "a try after a failure"
            self._posted.append(effect)
            self.most = max(self.most, len(self._posted))
            self.sent.append(effect.request.path)
        elif isinstance(effect, Pause):
            assert not self._posted
            self.now += effect.seconds
        elif isinstance(effect, Await):
            assert effect.seconds > 0
            late = self._data.draw(st.integers(0, len(self._posted)))
            if late == len(self._posted):
                self.now += effect.seconds
                return None
            return Arrived(self._posted.pop(late).ticket, OK)
        return None


@given(
    data=st.data(),
    jobs=st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=8),
    at_most=st.integers(1, 5),
)
def test_any_order_of_answers_ends_as_one_after_another_would(
    data: st.DataObject, jobs: list[tuple[int, bool]], at_most: int
) -> None:
    driver = AnyOrder(data)
    done: list[int] = []
    plan = all_jobs(Window(at_most, lambda: driver.now), jobs, done, driver.failed)
    refused = [number for number, (_, refuse) in enumerate(jobs) if refuse]
    if not refused:
        driver.play(plan)
        assert sorted(done) == list(range(len(jobs)))
    else:
        with pytest.raises(RefusedError) as caught:
            driver.play(plan)
        first = caught.value.args[0]
        assert first in refused
        # A job before it that still had tries to make may be given up, never one that was refused.
        assert all(jobs[number][0] > 1 for number in refused if number < first)
    assert driver.most <= at_most
    assert len(done) == len(set(done))


def test_each_try_that_was_due_is_made_once() -> None:
    """The oracle is the sum of all tries, whatever their order."""
    jobs = [(3, False), (1, False), (2, False), (4, False)]

    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        driver = AnyOrder(data)
        driver.play(all_jobs(Window(2, lambda: driver.now), jobs, [], driver.failed))
        assert sorted(driver.sent) == ["/0"] * 3 + ["/1"] + ["/2"] * 2 + ["/3"] * 4

    check()
