"""The pool of buffers: reuse, division, budget."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest

from bn_ops.engines.onnx.optimized import buffer_pool
from bn_ops.engines.onnx.optimized.buffer_pool import BufferPool

BYTE = np.dtype(np.uint8)
FLOAT = np.dtype(np.float32)
MEBIBYTE = 1 << 20


def place(array: np.ndarray) -> int:
    """Return the address of an array."""
    return int(array.ctypes.data)


def test_a_returned_buffer_is_reused() -> None:
    pool = BufferPool(lambda _: True)
    first = pool.take((4, 100), FLOAT)
    pool.give(first)
    again = pool.take((350,), FLOAT)
    assert place(again) == place(first)
    assert again.shape == (350,)
    assert again.dtype == FLOAT


def test_divided_buffer_is_joined_again() -> None:
    pool = BufferPool(lambda _: True)
    whole = pool.take((4, MEBIBYTE), BYTE)
    start = place(whole)
    pool.give(whole)
    parts = [pool.take((MEBIBYTE,), BYTE) for _ in range(4)]
    assert {place(part) for part in parts} == {start + k * MEBIBYTE for k in range(4)}
    for part in (parts[2], parts[0], parts[3], parts[1]):
        pool.give(part)
    assert place(pool.take((4, MEBIBYTE), BYTE)) == start


def test_a_tensor_fits_into_the_gap_of_several_smaller_ones() -> None:
    pool = BufferPool(lambda _: True)
    small = [pool.take((MEBIBYTE,), BYTE) for _ in range(8)]
    for array in small[2:5]:
        pool.give(array)
    if sys.platform == "linux":
        assert place(pool.take((3 * MEBIBYTE,), BYTE)) == place(small[2])


def test_memory_that_has_been_in_use_is_preferred() -> None:
    pool = BufferPool(lambda _: True)
    small = [pool.take((MEBIBYTE,), BYTE) for _ in range(4)]
    pool.give(small[3])  # the last one: memory that was never used follows it
    pool.give(small[0])
    assert place(pool.take((MEBIBYTE // 2,), BYTE)) == place(small[0])


def test_memory_that_was_never_used_does_not_count_as_idle() -> None:
    asked: list[int] = []

    def fits(nbytes: int) -> bool:
        asked.append(nbytes)
        return True

    pool = BufferPool(fits)
    pool.take((4, MEBIBYTE), BYTE)
    pool.evict_idle()
    assert asked[-1] == 4 * MEBIBYTE


@pytest.mark.parametrize("budget", [4, 20, 100])
def test_mappings_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    mapped: list[int] = []
    allocate = mmap.mmap

    def recorded(fileno: int, length: int, **options: int) -> mmap.mmap:
        mapped.append(length)
        return allocate(fileno, length, **options)

    monkeypatch.setattr(mmap, "mmap", recorded)
    pool = BufferPool(lambda nbytes: nbytes <= budget * MEBIBYTE)
    array = pool.take((4, MEBIBYTE), BYTE)
    assert array.nbytes <= sum(mapped) <= budget * MEBIBYTE


def test_parts_in_use_keep_their_content() -> None:
    rng = np.random.default_rng(0)
    pool = BufferPool(lambda _: True)
    held: list[tuple[np.ndarray, int]] = []
    for value in range(2000):
        if held and rng.random() < 0.45:
            array, expected = held.pop(int(rng.integers(len(held))))
            assert (array == expected).all()
            pool.give(array)
        array = pool.take((int(rng.integers(1, 3000)),), np.dtype(np.int32))
        array[:] = value
        held.append((array, value))
    for array, expected in held:
        assert (array == expected).all()


def test_idle_buffers_are_released() -> None:
    pool = BufferPool(lambda nbytes: nbytes <= 1024)
    small, large = pool.take((320,), BYTE), pool.take((640,), BYTE)
    assert pool.evict_idle()
    pool.give(small)
    other = pool.take((512,), BYTE)  # 1,152 bytes are in use, so no idle buffer may be kept
    assert not pool.evict_idle()
    pool.hand_over(other)
    pool.give(large)
    assert pool.evict_idle()
    assert place(pool.take((640,), BYTE)) == place(large)


def test_gaps_return_their_memory_when_it_is_short() -> None:
    limit = 16 * MEBIBYTE
    pool = BufferPool(lambda nbytes: nbytes <= limit)
    whole = pool.take((16 * MEBIBYTE,), BYTE)
    whole[:] = 1
    pool.give(whole)
    part = pool.take((MEBIBYTE,), BYTE)
    part[:] = 2
    limit = 2 * MEBIBYTE
    assert pool.evict_idle()
    assert (part == 2).all()
    # The memory behind the part has been freed: it reads as zeros, on the systems that can do it.
    assert not np.asarray(pool.take((15 * MEBIBYTE,), BYTE)).any()


def test_a_stored_array_no_longer_counts_as_in_use() -> None:
    pool = BufferPool(lambda nbytes: nbytes <= 64)
    array = pool.take((128,), BYTE)
    assert not pool.evict_idle()
    pool.hand_over(array)
    assert pool.evict_idle()
    pool.give_back(array)
    assert pool.evict_idle()


def test_foreign_buffers_are_not_kept() -> None:
    pool = BufferPool(lambda _: True)
    foreign = np.ones((10, 10), np.float32)
    pool.give_back(foreign)
    assert place(pool.take((10, 10), FLOAT)) != place(foreign)


def test_empty_arrays_have_places_of_their_own() -> None:
    pool = BufferPool(lambda _: True)
    one, other = pool.take((0, 5), FLOAT), pool.take((0, 5), FLOAT)
    pool.give(one)
    pool.give(other)
    assert one.shape == other.shape == (0, 5)


def test_buffers_stay_whole_where_parts_cannot_be_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_pool, "_CAN_FREE_PARTS", False)
    pool = BufferPool(lambda nbytes: nbytes <= 4096)
    first = pool.take((1024,), BYTE)
    start = place(first)
    pool.give(first)
    again = pool.take((896,), BYTE)
    assert place(again) == start
    pool.give(again)
    assert place(pool.take((256,), BYTE)) != start  # much smaller than the buffer
    assert place(pool.take((1024,), BYTE)) == start
