"""Parts of a stream cover it once, and begin only where the bytes of the result do not change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.moment_tree import CHUNK_SAMPLES
from service.workers.messages import StoredBatchRef, StreamPart
from service.workers.sharding.cut import Cut, balance, cut

SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=60)


def refs(sizes: Sequence[int], kind: str = "npy") -> list[StoredBatchRef]:
    return [
        StoredBatchRef(name=str(index), format=kind, start=None, bytes=1, samples=size)
        for index, size in enumerate(sizes)
    ]


def samples_of(sizes: Sequence[int], part: StreamPart) -> list[int]:
    """Return the positions that a worker takes from the batches of a part."""
    start = sum(sizes[: part.first])
    stop = start + sum(sizes[part.first : part.stop])
    assert part.recorded == stop - start
    return list(range(start, stop))[part.skip : part.skip + part.samples]


@given(SIZES, st.integers(1, 9), st.sampled_from(["aligned", "samples", "batches"]))
def test_parts_cover_the_stream_once_and_in_order(sizes: list[int], shards: int, how: Cut) -> None:
    parts = cut(refs(sizes), shards, how)
    assert 1 <= len(parts) <= shards
    found = [position for part in parts for position in samples_of(sizes, part)]
    assert found == list(range(sum(sizes)))
    assert [part.start for part in parts] == [samples_of(sizes, part)[0] for part in parts]


@given(SIZES, st.integers(2, 9), st.sampled_from([1, 16, 48, 100]))
def test_places_of_each_kind(sizes: list[int], shards: int, fixed: int) -> None:
    for how in ("aligned", "samples"):
        for part in cut(refs(sizes), shards, how, fixed=fixed):
            assert part.start % CHUNK_SAMPLES == 0
            assert part.start % fixed == 0
            assert how == "samples" or part.skip == 0


@given(SIZES, st.integers(2, 9))
def test_whole_batches_begin_a_chunk(sizes: list[int], shards: int) -> None:
    parts = cut(refs(sizes), shards, "batches")
    assert all(part.skip == 0 for part in parts)
    for before, part in pairwise(parts):
        last = before.start + before.samples - sizes[part.first - 1]
        assert last // CHUNK_SAMPLES < part.start // CHUNK_SAMPLES


@given(SIZES, st.integers(2, 9))
def test_batches_of_several_arrays_are_cut_at_multiples_only(sizes: list[int], shards: int) -> None:
    for part in cut(refs(sizes, "zip"), shards, "batches"):
        assert part.start % CHUNK_SAMPLES == 0


@pytest.mark.parametrize("how", ["aligned", "samples", "batches"])
def test_even_streams_are_cut_evenly(how: Cut) -> None:
    parts = cut(refs([32] * 64), 4, how)
    assert [part.samples for part in parts] == [512] * 4
    assert balance(parts, 4) == 1


def test_cutting_samples_balances_any_stream() -> None:
    parts = cut(refs([1000] * 7), 4, "samples")
    assert balance(parts, 4) < 1.05
    assert balance(cut(refs([1000] * 7), 4, "aligned"), 4) == 4
