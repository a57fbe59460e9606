"""Several batches on their way at once: one stream all the same, for both clients."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bnrecal_client import AsyncClient, BnrecalError, Client, Interrupted, OptionError, Progress
from tests.support.fake_bnrecal import MODEL, FakeServer, Fault
from tests.support.fake_time import FakeTime
from tests.support.played_clients import (
    Verbs,
    check_statistics,
    played,
    played_async,
    stream,
    verbs_of,
    verbs_of_async,
)

Batch = NDArray[np.float32]
# Longer than anything here takes; a test that waits for it has failed.
LONG_S = 30.0


class Watched:
    """A server in memory that several requests may reach at once.

    Attributes:
        server: what answers.
        time: the clients' time.
        most: how many batches were ever on their way at once.
        gate: called with each batch's index on its way in, beside the others.
    """

    def __init__(self) -> None:
        self.server = FakeServer()
        self.time = FakeTime()
        self.most = 0
        self.gate: Callable[[int], None] = lambda _: None
        self._now = 0
        self._lock = threading.Lock()

    def answer(self, request: httpx.Request) -> httpx.Response:
        found = re.search(r"/batches/(\d+)$", request.url.path)
        if found is None:
            return self.server.handle(request)
        self._count(1)
        try:
            self.gate(int(found[1]))
            return self.server.handle(request)
        finally:
            self._count(-1)

    async def answer_async(self, request: httpx.Request) -> httpx.Response:
        return await anyio.to_thread.run_sync(self.answer, request, abandon_on_cancel=True)

    def _count(self, change: int) -> None:
        with self._lock:
            self._now += change
            self.most = max(self.most, self._now)

    def client(self) -> Client:
        return played(httpx.MockTransport(self.answer_async), self.time)

    def async_client(self) -> AsyncClient:
        return played_async(httpx.MockTransport(self.answer_async), self.time)

    @property
    def stored(self) -> dict[int, bytes]:
        return self.server.recalibrations["rc_00"].batches

    @property
    def sent(self) -> list[int]:
        puts = [line for line in self.server.requests if line.startswith("PUT")]
        return [int(line.rsplit("/", 1)[1]) for line in puts]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture(params=["threads", "tasks"])
def verbs(request: pytest.FixtureRequest, watched: Watched) -> Verbs:
    if request.param == "threads":
        return verbs_of(watched.client())
    return verbs_of_async(watched.async_client())


def together(parties: int) -> Callable[[int], None]:
    """Return a gate that nobody passes alone."""
    barrier = threading.Barrier(parties, timeout=LONG_S)

    def gate(_: int) -> None:
        barrier.wait()

    return gate


class Lazy(Sequence[Batch]):
    """Batches that can be read again; tells how far they are read ahead of what is stored."""

    def __init__(self, batches: list[Batch], watched: Watched) -> None:
        self._batches = batches
        self._watched = watched
        self.ahead: list[int] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return self._batches[index]

    def __iter__(self) -> Iterator[Batch]:
        for index, batch in enumerate(self._batches):
            self.ahead.append(index - len(self._watched.stored))
            yield batch


def test_a_list_goes_over_four_connections(verbs: Verbs, watched: Watched) -> None:
    watched.gate = together(4)
    batches = stream(8)
    check_statistics(verbs.recalibrate(MODEL, batches, progress=False), batches)
    assert watched.most == 4


def test_an_iterator_goes_over_one_unless_more_are_asked_for(
    verbs: Verbs, watched: Watched
) -> None:
    batches = stream(8)
    lazy = Lazy(batches, watched)
    check_statistics(verbs.recalibrate(MODEL, iter(lazy), progress=False), batches)
    assert watched.most == 1
    assert lazy.ahead == [0] * 8
    watched.gate = together(2)
    result = verbs.recalibrate(MODEL, iter(batches), progress=False, connections=2)
    check_statistics(result, batches)
    assert watched.most == 2


@pytest.mark.parametrize("connections", [1, 2, 3, 16])
def test_the_stream_is_the_same_over_any_number_of_connections(
    verbs: Verbs, watched: Watched, connections: int
) -> None:
    batches = stream(11)
    verbs.recalibrate(MODEL, batches, progress=False, connections=connections)
    verbs.recalibrate(MODEL, batches, progress=False, connections=1)
    here, there = (watched.server.recalibrations[name].batches for name in ("rc_00", "rc_01"))
    assert dict(sorted(here.items())) == dict(sorted(there.items()))
    assert list(there) == list(range(11))
    assert watched.most <= connections


def test_a_batch_that_is_overtaken_keeps_its_index(verbs: Verbs, watched: Watched) -> None:
    others = threading.Semaphore(0)

    def gate(index: int) -> None:
        if index:
            others.release()
        else:
            assert all(others.acquire(timeout=LONG_S) for _ in range(5))

    watched.gate = gate
    batches = stream(6)
    check_statistics(verbs.recalibrate(MODEL, batches, progress=False), batches)
    assert list(watched.stored)[-1] == 0


def test_no_more_batches_are_in_memory_than_connections(verbs: Verbs, watched: Watched) -> None:
    watched.gate = together(3)
    batches = Lazy(stream(12), watched)
    verbs.recalibrate(MODEL, batches, progress=False, connections=3)
    # When one is read, two at most are on their way.
    assert max(batches.ahead) == 2


def test_an_iterable_may_use_its_array_again(verbs: Verbs, watched: Watched) -> None:
    batches = stream(8)

    class Reused:
        def __iter__(self) -> Iterator[Batch]:
            array = np.empty_like(batches[0])
            for batch in batches:
                array[:] = batch
                yield array

    watched.gate = together(4)
    check_statistics(verbs.recalibrate(MODEL, Reused(), progress=False), batches)


def test_an_asynchronous_stream_may_go_over_several(watched: Watched) -> None:
    async def batches() -> Any:
        for batch in stream(8):
            yield batch

    watched.gate = together(4)
    verbs = verbs_of_async(watched.async_client())
    result = verbs.recalibrate(MODEL, batches(), progress=False, connections=4)
    check_statistics(result, stream(8))


def test_progress_counts_what_is_stored(verbs: Verbs) -> None:
    seen: list[Progress] = []
    threads: set[str] = set()

    def notify(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.current_thread().name)

    verbs.recalibrate(MODEL, stream(9), progress=notify)
    sending = [(p.done, p.total) for p in seen if p.phase == "sending"]
    assert sending == [(done, 9) for done in range(10)]
    assert threads == {threading.current_thread().name}


def test_the_first_failure_in_the_stream_is_told_and_what_was_before_it_is_stored(
    verbs: Verbs, watched: Watched
) -> None:
    """Batch 6 is refused before batch 5 is; alone, batch 5 would have been the first."""
    refused = threading.Event()

    def gate(index: int) -> None:
        if index == 5:
            assert refused.wait(LONG_S)

    def seen(line: str) -> None:
        if line.endswith("/batches/6"):
            refused.set()

    watched.gate = gate
    watched.server.on_request = seen
    watched.server.faults = [
        Fault(kind="problem", where=f"PUT .*/{index}$", status=422, code=code, retryable=False)
        for index, code in ((5, "batch-shape"), (6, "batch-dtype"))
    ]
    with pytest.raises(BnrecalError, match="in trouble") as caught:
        verbs.recalibrate(MODEL, stream(40), progress=False)
    assert caught.value.code == "batch-shape"
    assert set(range(5)) <= watched.stored.keys()
    # At most three were on their way beside the first that failed.
    assert max(watched.sent) <= 9


def test_a_failing_loader_loses_nothing_that_it_gave(verbs: Verbs, watched: Watched) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Batch]:
            yield from stream(3)
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        verbs.recalibrate(MODEL, Broken(), progress=False)
    assert sorted(watched.stored) == [0, 1, 2]
    assert "rc_00" in caught.value.__notes__[0]


def test_a_refused_batch_comes_before_a_failing_loader(verbs: Verbs, watched: Watched) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Batch]:
            yield from stream(2)
            raise OSError("the disk is gone")

    watched.server.faults = [Fault(kind="problem", where="PUT .*/1$", status=422, retryable=False)]
    with pytest.raises(BnrecalError, match="in trouble"):
        verbs.recalibrate(MODEL, Broken(), progress=False)


def test_a_pausing_upload_does_not_delay_the_others(verbs: Verbs, watched: Watched) -> None:
    async def others_are_stored(seconds: float) -> None:
        with anyio.fail_after(LONG_S):
            while seconds == 17.0 and len(watched.stored) < 5:  # noqa: ASYNC110 - polls a server
                await anyio.sleep(0.01)

    watched.time.on_sleep = others_are_stored
    wait = {"Retry-After": "17"}
    watched.server.faults = [Fault(kind="problem", where="PUT .*/0$", headers=wait)]
    batches = stream(6)
    check_statistics(verbs.recalibrate(MODEL, batches, progress=False), batches)
    assert list(watched.stored)[-1] == 0
    assert watched.time.slept[0] == 17.0


@pytest.mark.parametrize("kind", ["refuse", "lose", "problem", "page"])
def test_trouble_with_many_at_once_counts_nothing_twice(
    verbs: Verbs, watched: Watched, kind: str
) -> None:
    watched.server.faults = [Fault(kind=kind, where="PUT", times=13)]
    batches = stream(9)
    check_statistics(verbs.recalibrate(MODEL, batches, progress=False), batches)
    assert watched.server.faults[0].times == 0


def test_resume_sends_what_is_missing_over_several(verbs: Verbs, watched: Watched) -> None:
    watched.server.page = 3
    batches = stream(10)
    opened = verbs.create(verbs.upload(MODEL).id)
    for index in (0, 3, 4, 8):
        verbs.send(opened.id, index, {"x": batches[index]})
    watched.server.requests.clear()
    watched.gate = together(3)
    result = verbs.recalibrate(MODEL, batches, progress=False, resume=opened.id, connections=3)
    assert sorted(watched.sent) == [1, 2, 5, 6, 7, 9]
    check_statistics(result, batches)


@pytest.mark.parametrize("connections", [0, -1, 17])
def test_a_number_of_connections_that_makes_no_sense_is_refused(
    verbs: Verbs, watched: Watched, connections: int
) -> None:
    with pytest.raises(OptionError, match="from 1 to 16"):
        verbs.recalibrate(MODEL, stream(), progress=False, connections=connections)
    assert watched.server.requests == []


def test_ctrl_c_waits_for_no_answer(watched: Watched) -> None:
    released = threading.Event()
    held = threading.Semaphore(0)
    main = threading.get_ident()

    def gate(index: int) -> None:
        held.release()
        if index == 3:
            assert all(held.acquire(timeout=LONG_S) for _ in range(4))
            signal.pthread_kill(main, signal.SIGINT)
        released.wait(LONG_S)

    watched.gate = gate
    batches = stream(8)
    with pytest.raises(Interrupted, match="rc_00"):
        watched.client().recalibrate(MODEL, batches, progress=False)
    assert watched.sent == []  # none of the four had its answer
    released.set()
    watched.gate = lambda _: None
    result = watched.client().recalibrate(MODEL, batches, progress=False, resume="rc_00")
    check_statistics(result, batches)


def test_cancelling_the_task_waits_for_no_answer(watched: Watched) -> None:
    released = threading.Event()
    held = threading.Semaphore(0)

    def gate(_: int) -> None:
        held.release()
        released.wait(LONG_S)

    async def whole() -> None:
        task = asyncio.create_task(
            watched.async_client().recalibrate(MODEL, stream(8), progress=False)
        )
        for _ in range(4):
            assert await asyncio.to_thread(held.acquire, timeout=LONG_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert watched.sent == []
        assert "rc_00" in caught.value.__notes__[0]
        released.set()

    watched.gate = gate
    asyncio.run(whole())


def test_a_client_ends_its_thread_on_close_and_when_it_is_dropped(watched: Watched) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "bnrecal-client"}

    before = threads()
    with watched.client() as client:
        client.recalibrate(MODEL, stream(8), progress=False)
        (thread,) = threads() - before
        assert thread.daemon  # a program that never closes its client can still end
    assert not thread.is_alive()
    dropped = watched.client()
    dropped.models()
    (thread,) = threads() - before
    del dropped
    thread.join(LONG_S)
    assert not thread.is_alive()
