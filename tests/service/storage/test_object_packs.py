"""How small blobs are gathered into packs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.errors import CapacityError
from service.storage.blobs import object_packs
from service.storage.blobs.object_packs import MAX_OF_FOLDER, MAX_PACKS, ObjectPacks, StoredObject

Scenario = Callable[["Store", ObjectPacks], Awaitable[None]]


class Store:
    """Keeps what is put, and answers each request when the test lets it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def put(self, key: str, content: bytes) -> None:
        answer = asyncio.get_running_loop().create_future()
        self.sent.append((key.rpartition("/")[0], content))
        self.answers.append(answer)
        await answer

    async def answer(self, number: int, error: Exception | None = None) -> None:
        if error is None:
            self.answers[number].set_result(None)
        else:
            self.answers[number].set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def staged(packs: ObjectPacks, content: bytes, folder: str = "a") -> asyncio.Task[StoredObject]:
    return asyncio.create_task(packs.stage(folder, content))


def played(scenario: Scenario) -> None:
    async def play() -> None:
        store = Store()
        await scenario(store, ObjectPacks(store.put))

    asyncio.run(play())


def test_blobs_gather_while_a_pack_is_on_the_way() -> None:
    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks = []
        for number in range(5):
            tasks.append(staged(packs, b"%d" % number * (number + 1)))
            await settle()
        assert store.sent == [("a", b"0")]
        await store.answer(0)
        assert store.sent[1:] == [("a", b"11" + b"222" + b"3333" + b"44444")]
        assert [task.done() for task in tasks] == [True, False, False, False, False]
        await store.answer(1)
        found = [task.result().location for task in tasks[1:]]
        assert [one.start for one in found] == [0, 2, 5, 9]
        assert len({one.name for one in found}) == 1
        assert tasks[0].result().location.start == 0

    played(scenario)


def test_many_bytes_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_packs, "SECOND_PACK_BYTES", 6)

    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks = []
        for number in range(12):
            tasks.append(staged(packs, b"%x%x" % (number, number)))
            await settle()
        assert [content for _, content in store.sent] == [b"00", b"112233"]
        assert MAX_OF_FOLDER == 2
        await store.answer(0)
        assert store.sent[2] == ("a", b"445566778899aabb")
        for number in (1, 2):
            await store.answer(number)
        assert all(task.done() for task in tasks)

    played(scenario)


def test_folders_never_share_a_pack() -> None:
    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks = [staged(packs, name.encode(), name) for name in "abab" for _ in range(3)]
        await settle()
        while len(store.answers) and not all(task.done() for task in tasks):
            for number, answer in enumerate(store.answers):
                if not answer.done():
                    await store.answer(number)
        for folder, content in store.sent:
            assert set(content.decode()) == {folder}
        assert sum(len(content) for _, content in store.sent) == 12

    played(scenario)


def test_number_of_packs_is_limited() -> None:
    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks = [staged(packs, b"x", f"{number:02}") for number in range(3 * MAX_PACKS)]
        await settle()
        assert len(store.sent) == MAX_PACKS
        await store.answer(5)
        assert len(store.sent) == MAX_PACKS + 1
        # First those that have waited longest.
        assert store.sent[-1][0] == f"{MAX_PACKS:02}"
        for task in tasks:
            task.cancel()

    played(scenario)


def test_size_of_a_pack_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_packs, "MAX_PACK_BYTES", 10)

    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks = [staged(packs, b"123456") for _ in range(6)]
        await settle()
        for number in range(3):
            await store.answer(number)
        assert [len(content) for _, content in store.sent] == [6, 12, 12, 6]
        await store.answer(3)
        assert all(task.done() for task in tasks)

    played(scenario)


def test_failed_pack_fails_its_blobs_only() -> None:
    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks = [staged(packs, b"x") for _ in range(4)]
        await settle()
        await store.answer(0, CapacityError("injected"))
        await store.answer(1)
        assert [task.exception() is None for task in tasks] == [False, True, True, True]
        with pytest.raises(CapacityError, match="injected"):
            tasks[0].result()

    played(scenario)


def test_cancelled_request_leaves_its_bytes_in_the_pack() -> None:
    async def scenario(store: Store, packs: ObjectPacks) -> None:
        tasks: list[asyncio.Task[Any]] = [staged(packs, b"%d" % number) for number in range(4)]
        await settle()
        tasks[2].cancel()
        await settle()
        for number in range(2):
            await store.answer(number)
        assert store.sent[1] == ("a", b"123")
        assert tasks[2].cancelled()
        assert [tasks[number].result().location.start for number in (1, 3)] == [0, 2]

    played(scenario)
