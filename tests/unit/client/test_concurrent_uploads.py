"""Concurrent uploads: the server sees the same stream, for both clients."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest
from numpy.typing import NDArray

from bnrecal_client import BnrecalError, Interrupted, OptionError, Progress
from tests.support.client_server import MODEL, ClientServer, Fault
from tests.support.fake_time import FakeTime
from tests.support.played_clients import (
    Calls,
    calls_of,
    check_statistics,
    played,
    played_async,
    stream,
)

Batch = NDArray[np.float32]
# Longer than anything here takes; a test that waits for it has failed.
LONG_S = 30.0


def on_upload(gate: Callable[[int], Awaitable[None]]) -> Callable[[str], Awaitable[None]]:
    """Await a gate with the index of each batch before it arrives at the server."""

    async def arrival(line: str) -> None:
        if found := re.search(r"^PUT .*/batches/(\d+)$", line):
            await gate(int(found[1]))

    return arrival


def together(parties: int) -> Callable[[str], Awaitable[None]]:
    """Let batches arrive in groups of this size only."""
    waiting: list[anyio.Event] = []

    async def gate(_: int) -> None:
        event = anyio.Event()
        waiting.append(event)
        if len(waiting) == parties:
            for one in waiting:
                one.set()
            waiting.clear()
        with anyio.fail_after(LONG_S):
            await event.wait()

    return on_upload(gate)


class Lazy(Sequence[Batch]):
    """Batches that can be read again; records how far they are read ahead of what is stored."""

    def __init__(self, batches: list[Batch], server: ClientServer) -> None:
        self._batches = batches
        self._server = server
        self.ahead: list[int] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return self._batches[index]

    def __iter__(self) -> Iterator[Batch]:
        for index, batch in enumerate(self._batches):
            self.ahead.append(index - len(self._server.stored(self._server.id)))
            yield batch


def test_list_is_sent_over_four_connections(client: Calls, server: ClientServer) -> None:
    server.transport.on_arrival = together(4)
    batches = stream(8)
    check_statistics(client.recalibrate(MODEL, batches, progress=False), batches)
    assert server.transport.most_uploads == 4


def test_iterator_uses_one_connection(client: Calls, server: ClientServer) -> None:
    batches = stream(8)
    lazy = Lazy(batches, server)
    check_statistics(client.recalibrate(MODEL, iter(lazy), progress=False), batches)
    assert server.transport.most_uploads == 1
    assert lazy.ahead == [0] * 8
    server.transport.on_arrival = together(2)
    result = client.recalibrate(MODEL, iter(batches), progress=False, connections=2)
    check_statistics(result, batches)
    assert server.transport.most_uploads == 2


@pytest.mark.parametrize("connections", [1, 2, 3, 16])
def test_stream_is_independent_of_connections(
    client: Calls, server: ClientServer, connections: int
) -> None:
    batches = stream(11)
    several = client.recalibrate(MODEL, batches, progress=False, connections=connections)
    one = client.recalibrate(MODEL, batches, progress=False, connections=1)
    here, there = (server.stored(str(result.recalibration_id)) for result in (several, one))
    assert here == there
    assert list(there) == list(range(11))
    assert server.transport.most_uploads <= connections


def test_batch_that_is_overtaken_keeps_its_index(client: Calls, server: ClientServer) -> None:
    async def gate(index: int) -> None:
        with anyio.fail_after(LONG_S):
            while index == 0 and len(server.sent) < 5:  # noqa: ASYNC110 - polls the server
                await anyio.sleep(0.01)

    server.transport.on_arrival = on_upload(gate)
    batches = stream(6)
    check_statistics(client.recalibrate(MODEL, batches, progress=False), batches)
    assert server.sent[-1] == 0


def test_batches_in_memory_are_limited(client: Calls, server: ClientServer) -> None:
    server.transport.on_arrival = together(3)
    batches = Lazy(stream(12), server)
    client.recalibrate(MODEL, batches, progress=False, connections=3)
    # When one is read, at most two are in transit.
    assert max(batches.ahead) == 2


def test_iterable_may_reuse_its_array(client: Calls, server: ClientServer) -> None:
    batches = stream(8)

    class Reused:
        def __iter__(self) -> Iterator[Batch]:
            array = np.empty_like(batches[0])
            for batch in batches:
                array[:] = batch
                yield array

    server.transport.on_arrival = together(4)
    check_statistics(client.recalibrate(MODEL, Reused(), progress=False), batches)


def test_async_stream_over_several_connections(server: ClientServer, time: FakeTime) -> None:
    async def batches() -> Any:
        for batch in stream(8):
            yield batch

    server.transport.on_arrival = together(4)
    client = calls_of(played_async(server.transport, time))
    result = client.recalibrate(MODEL, batches(), progress=False, connections=4)
    check_statistics(result, stream(8))


@pytest.mark.parametrize("connections", [1, 4])
def test_iterables_run_in_the_calling_thread(
    server: ClientServer, time: FakeTime, connections: int
) -> None:
    threads: set[int] = set()

    class Batches:
        def __len__(self) -> int:
            threads.add(threading.get_ident())
            return 9

        def __iter__(self) -> Iterator[Batch]:
            for batch in stream(9):
                threads.add(threading.get_ident())
                yield batch

    seen: list[Progress] = []

    def notify(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.get_ident())

    server.transport.faults = [Fault(kind="refuse", where="PUT")]
    played(server.transport, time).recalibrate(
        MODEL, Batches(), progress=notify, connections=connections
    )
    assert threads == {threading.get_ident()}
    assert [p.note for p in seen if p.phase == "waiting"] == ["connection refused"]
    assert [(p.done, p.total) for p in seen if p.phase == "sending"][-1] == (9, 9)


def test_progress_counts_stored_batches(client: Calls) -> None:
    seen: list[Progress] = []
    client.recalibrate(MODEL, stream(9), progress=seen.append)
    sending = [(p.done, p.total) for p in seen if p.phase == "sending"]
    assert sending == [(done, 9) for done in range(10)]


def test_first_failure_of_stream_is_raised(client: Calls, server: ClientServer) -> None:
    """Batch 6 fails before batch 5 does; in sequence, batch 5 would have been the first."""

    async def gate(index: int) -> None:
        with anyio.fail_after(LONG_S):
            while index == 5 and 6 not in server.sent:  # noqa: ASYNC110 - polls the server
                await anyio.sleep(0.01)

    server.transport.on_arrival = on_upload(gate)
    server.transport.faults = [
        Fault(kind="problem", where=f"PUT .*/{index}$", status=422, code=code, retryable=False)
        for index, code in ((5, "batch-shape"), (6, "batch-dtype"))
    ]
    with pytest.raises(BnrecalError, match="injected") as caught:
        client.recalibrate(MODEL, stream(40), progress=False)
    assert caught.value.code == "batch-shape"
    assert set(range(5)) <= server.stored(server.id).keys()
    # Besides the first that failed, at most three others were in transit.
    assert max(server.sent) <= 9


def test_failing_loader_loses_no_batch(client: Calls, server: ClientServer) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Batch]:
            yield from stream(3)
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        client.recalibrate(MODEL, Broken(), progress=False)
    assert sorted(server.stored(server.id)) == [0, 1, 2]
    assert server.id in caught.value.__notes__[0]


def test_rejected_batch_precedes_failing_loader(client: Calls, server: ClientServer) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Batch]:
            yield from stream(2)
            raise OSError("the disk is gone")

    server.transport.faults = [
        Fault(kind="problem", where="PUT .*/1$", status=422, code="batch-shape", retryable=False)
    ]
    with pytest.raises(BnrecalError, match="injected"):
        client.recalibrate(MODEL, Broken(), progress=False)


def test_pausing_upload_does_not_delay_others(
    client: Calls, server: ClientServer, time: FakeTime
) -> None:
    async def others_are_sent(seconds: float) -> None:
        with anyio.fail_after(LONG_S):
            while seconds == 17.0 and len(server.sent) < 6:  # noqa: ASYNC110 - polls the server
                await anyio.sleep(0.01)

    time.on_sleep = others_are_sent
    wait = {"Retry-After": "17"}
    server.transport.faults = [Fault(kind="problem", where="PUT .*/0$", headers=wait)]
    batches = stream(6)
    check_statistics(client.recalibrate(MODEL, batches, progress=False), batches)
    assert server.sent[-1] == 0
    assert time.slept[0] == 17.0


def test_failure_ends_pauses_of_other_uploads(
    client: Calls, server: ClientServer, time: FakeTime
) -> None:
    async def forever(seconds: float) -> None:
        if seconds == 17.0:
            await anyio.sleep(LONG_S)

    time.on_sleep = forever
    server.transport.faults = [
        Fault(kind="problem", where="PUT .*/0$", headers={"Retry-After": "17"}),
        Fault(kind="problem", where="PUT .*/1$", status=422, code="batch-shape", retryable=False),
    ]
    with pytest.raises(BnrecalError, match="injected") as caught:
        client.recalibrate(MODEL, stream(6), progress=False)
    assert caught.value.code == "batch-shape"
    assert server.sent.count(0) == 1


@pytest.mark.parametrize("kind", ["refuse", "lose", "problem", "page"])
def test_faults_of_concurrent_uploads(client: Calls, server: ClientServer, kind: str) -> None:
    server.transport.faults = [Fault(kind=kind, where="PUT", times=13)]
    batches = stream(9)
    check_statistics(client.recalibrate(MODEL, batches, progress=False), batches)
    assert server.transport.faults[0].times == 0


def test_resume_over_several_connections(client: Calls, server: ClientServer) -> None:
    server.transport.page = 3
    batches = stream(10)
    opened = client.create(client.upload(MODEL).id)
    for index in (0, 3, 4, 8):
        client.send(opened.id, index, {"x": batches[index]})
    server.transport.requests.clear()
    server.transport.on_arrival = together(3)
    result = client.recalibrate(MODEL, batches, progress=False, resume=opened.id, connections=3)
    assert sorted(server.sent) == [1, 2, 5, 6, 7, 9]
    check_statistics(result, batches)


@pytest.mark.parametrize("connections", [0, -1, 17])
def test_invalid_number_of_connections_is_an_error(
    client: Calls, server: ClientServer, connections: int
) -> None:
    with pytest.raises(OptionError, match="from 1 to 16"):
        client.recalibrate(MODEL, stream(), progress=False, connections=connections)
    assert server.transport.requests == []


def test_ctrl_c_does_not_wait(server: ClientServer, time: FakeTime) -> None:
    held: list[int] = []

    async def gate(index: int) -> None:
        held.append(index)
        if len(held) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep(LONG_S)

    async def at_once(_: str) -> None:
        return

    server.transport.on_arrival = on_upload(gate)
    batches = stream(8)
    client = played(server.transport, time)
    with pytest.raises(Interrupted) as caught:
        client.recalibrate(MODEL, batches, progress=False)
    assert caught.value.recalibration_id == server.id
    assert server.sent == []
    server.transport.on_arrival = at_once
    result = client.recalibrate(MODEL, batches, progress=False, resume=server.id)
    check_statistics(result, batches)


def test_cancellation_does_not_wait(server: ClientServer, time: FakeTime) -> None:
    async def whole() -> None:
        held = anyio.Semaphore(0)

        async def gate(_: int) -> None:
            held.release()
            await anyio.sleep(LONG_S)

        server.transport.on_arrival = on_upload(gate)
        client = played_async(server.transport, time)
        task = asyncio.create_task(client.recalibrate(MODEL, stream(8), progress=False))
        with anyio.fail_after(LONG_S):
            for _ in range(4):
                await held.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert server.sent == []
        assert server.id in caught.value.__notes__[0]

    asyncio.run(whole())


def test_threads_end_with_the_call(server: ClientServer, time: FakeTime) -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "bnrecal-client"}

    before, seen = threads(), set[threading.Thread]()
    played(server.transport, time).recalibrate(
        MODEL, stream(8), progress=lambda _: seen.update(threads() - before)
    )
    assert len(seen) == 4
    for thread in seen:
        assert thread.daemon  # a program that is interrupted does not wait for them
        thread.join(LONG_S)
        assert not thread.is_alive()


def test_ctrl_c_precedes_a_rejected_batch(server: ClientServer, time: FakeTime) -> None:
    loading = threading.Event()

    async def gate(_: int) -> None:
        await anyio.to_thread.run_sync(loading.wait, LONG_S)

    def batches() -> Iterator[Batch]:
        yield from stream(1)
        loading.set()
        pause = threading.Event()
        while server.sent == []:
            pause.wait(0.01)
        pause.wait(0.1)  # the upload has failed by then
        raise KeyboardInterrupt

    server.transport.on_arrival = on_upload(gate)
    server.transport.faults = [
        Fault(kind="problem", where="PUT", status=422, code="batch-shape", retryable=False)
    ]
    with pytest.raises(Interrupted):
        played(server.transport, time).recalibrate(MODEL, batches(), progress=False, connections=4)
