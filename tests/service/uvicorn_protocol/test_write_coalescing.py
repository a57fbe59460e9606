"""Writes of one iteration of the event loop are joined; none is lost or delayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

from service.uvicorn_protocol.write_coalescing import WriteCoalescingTransport


class Transport:
    """Records each call of `writelines`."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def writelines(self, data: Iterable[bytes]) -> None:
        assert not self.closed
        self.written.append(b"".join(data))

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 100

    def is_closing(self) -> bool:
        return self.closed


def played(*turns: Callable[[WriteCoalescingTransport, Transport], None]) -> list[bytes]:
    """Run one function per iteration of the event loop; return what each call wrote."""
    transport = Transport()

    async def play() -> None:
        joined = WriteCoalescingTransport(cast("asyncio.Transport", transport))
        for turn in turns:
            turn(joined, transport)
            await asyncio.sleep(0)

    asyncio.run(play())
    return transport.written


def test_writes_of_one_iteration_are_joined() -> None:
    def answer(joined: WriteCoalescingTransport, _: Transport) -> None:
        joined.write(b"head ")
        joined.write(b"body")

    assert played(answer, lambda *_: None, answer) == [b"head body", b"head body"]


def test_stream_is_not_delayed() -> None:
    def part(joined: WriteCoalescingTransport, transport: Transport) -> None:
        assert len(transport.written) == sum(len(one) for one in transport.written)
        joined.write(b".")

    assert played(part, part, part) == [b"."] * 3


def test_close_flushes_pending_data() -> None:
    def refuse(joined: WriteCoalescingTransport, transport: Transport) -> None:
        joined.write(b"400")
        joined.close()
        assert (transport.written, transport.closed) == ([b"400"], True)

    assert played(refuse) == [b"400"]


def test_closed_connection_gets_no_data() -> None:
    def write(joined: WriteCoalescingTransport, transport: Transport) -> None:
        joined.write(b"late")
        transport.close()

    assert played(write) == []


def test_pending_data_is_not_counted_as_sent() -> None:
    def write(joined: WriteCoalescingTransport, _: Transport) -> None:
        before = joined.sent_bytes
        joined.write(b"answer")
        assert (joined.get_write_buffer_size(), joined.sent_bytes) == (106, before)

    assert played(write) == [b"answer"]


def test_other_methods_are_delegated() -> None:
    def look(joined: WriteCoalescingTransport, transport: Transport) -> None:
        assert not joined.is_closing()
        transport.close()
        assert joined.is_closing()

    assert played(look) == []
