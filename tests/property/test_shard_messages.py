"""The byte forms of shards' messages: round trips, and refusal of everything else."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.moment_tree import MomentTree
from bn_ops.core.moments import measure
from bn_ops.core.sharding import SettledLevel, ShardMoments
from bn_ops.core.sharding.messages import MAX_MESSAGE_BYTES
from bn_ops.core.statistics import RunningStatistics
from bn_ops.errors import BnOpsError, ShardError

HEAD = struct.Struct("<8sI")


@st.composite
def moments(draw: st.DrawFn) -> ShardMoments:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(st.lists(st.text(max_size=6), max_size=3, unique=True))
    sizes = draw(st.lists(st.integers(1, 100), min_size=1, max_size=6))
    layers = {}
    for name in names:
        tree, position = MomentTree(), draw(st.integers(0, 1 << 50))
        channels = draw(st.integers(1, 4))
        for size in sizes:
            tree.add(position, measure(rng.normal(1, 2, (size, channels, 3))))
            position += size
        layers[name] = tree.nodes()
    return ShardMoments(
        plan=draw(st.text(max_size=8)),
        kernels=draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)),
        level=draw(st.integers(0, 99)),
        samples=sum(sizes),
        layers=layers,
    )


@st.composite
def levels(draw: st.DrawFn) -> SettledLevel:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(st.lists(st.text(max_size=6), max_size=3, unique=True))
    statistics = {
        name: RunningStatistics(mean=rng.normal(0, 1, n), var=rng.uniform(0, 2, n))
        for n, name in enumerate(names, start=1)
    }
    return SettledLevel(
        plan=draw(st.text(max_size=8)), level=draw(st.integers(0, 99)), statistics=statistics
    )


@given(moments())
def test_moments_survive_a_round_trip(value: ShardMoments) -> None:
    data = value.to_bytes()
    found = ShardMoments.from_bytes(data)
    assert found.to_bytes() == data
    assert (found.plan, found.level, found.samples) == (value.plan, value.level, value.samples)
    assert found.kernels == value.kernels
    for name, nodes in value.layers.items():
        assert found.layers[name].keys() == nodes.keys()
        for node, one in nodes.items():
            np.testing.assert_array_equal(found.layers[name][node].mean, one.mean)
            np.testing.assert_array_equal(
                found.layers[name][node].sample_sums.ee, one.sample_sums.ee
            )
    assert found.totals().keys() == value.layers.keys()


@given(levels())
def test_levels_survive_a_round_trip(value: SettledLevel) -> None:
    data = value.to_bytes()
    found = SettledLevel.from_bytes(data)
    assert found.to_bytes() == data
    for name, one in value.statistics.items():
        np.testing.assert_array_equal(found.statistics[name].var, one.var)


READERS: list[Callable[[bytes], object]] = [ShardMoments.from_bytes, SettledLevel.from_bytes]


@given(st.binary(max_size=200), st.sampled_from(READERS))
def test_other_bytes_are_refused(data: bytes, read: Callable[[bytes], object]) -> None:
    with pytest.raises(ShardError):
        read(data)


@given(moments(), st.data())
def test_damaged_moments_are_refused_or_canonical(value: ShardMoments, data: st.DataObject) -> None:
    """A changed number may be another valid message; nothing else passes, and nothing crashes."""
    whole = bytearray(value.to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    try:
        found = ShardMoments.from_bytes(bytes(whole))
    except ShardError:
        return
    assert found.to_bytes() == bytes(whole)


def message(header: object, payload: bytes = b"") -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return HEAD.pack(b"bnshard\x01", len(text)) + text + payload


def valid(**changes: Any) -> dict[str, Any]:
    layer = {"name": "a", "channels": 1, "nodes": [[0, 0, 2, 4]]}
    header: dict[str, Any] = {
        "kind": "moments", "plan": "p", "kernels": {}, "level": 0, "samples": 2, "layers": [layer],
    }  # fmt: skip
    return header | changes


NUMBERS = np.ones(8).tobytes()


def layer(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "channels": 1, "nodes": [[0, 0, 2, 4]]} | changes]


def test_the_smallest_message_is_read() -> None:
    found = ShardMoments.from_bytes(message(valid(), NUMBERS))
    assert found.totals()["a"].count == 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "magic"),
        (b"bnshard\x02" + bytes(20), "magic"),
        (HEAD.pack(b"bnshard\x01", 1 << 31), "within its header"),
        (message(valid(), NUMBERS[:-1]), "ends within a number"),
        (message(valid(), NUMBERS[:-8]), "fewer numbers"),
        (message(valid(), NUMBERS + bytes(8)), "more numbers"),
        (message(valid(), np.full(8, np.nan).tobytes()), "NaN"),
        (message(valid(), np.array([1, -1, 1, 1, 1, 1, 1, 1.0]).tobytes()), "negative"),
        (message([1]), "not as this package"),
        (message(valid(kind="settled")), "kind"),
        (message(valid(plan=1), NUMBERS), "plan"),
        (message(valid(kernels=[]), NUMBERS), "kernels"),
        (message(valid(kernels={"a": 1}), NUMBERS), "kernels"),
        (message(valid(level=-1), NUMBERS), "level"),
        (message(valid(level=True), NUMBERS), "level"),
        (message(valid(level=1.0), NUMBERS), "level"),
        (message(valid(samples=1 << 70), NUMBERS), "samples"),
        (message(valid(samples=0), NUMBERS), "no sample"),
        (message(valid(layers={}), NUMBERS), "layers"),
        (message(valid(layers=[1]), NUMBERS), "layers"),
        (message(valid(layers=layer(name=None)), NUMBERS), "name"),
        (message(valid(layers=layer() * 2), NUMBERS * 2), "twice"),
        (message(valid(layers=layer(channels=0)), NUMBERS), "channels"),
        (message(valid(layers=layer(channels=1 << 23)), NUMBERS), "fewer numbers"),
        (message(valid(layers=layer(channels=1 << 60)), NUMBERS), "channels"),
        (message(valid(layers=layer(nodes=[]))), "no moments"),
        (message(valid(layers=layer(nodes=[[0, 0, 1]])), NUMBERS), "four integers"),
        (message(valid(layers=layer(nodes=[[0, -1, 1, 1]])), NUMBERS), "four integers"),
        (message(valid(layers=layer(nodes=[[0, 0, 0, 0]])), NUMBERS), "cannot come from"),
        (message(valid(layers=layer(nodes=[[0, 0, 3, 2]])), NUMBERS), "cannot come from"),
        (message(valid(layers=layer(nodes=[[60, 0, 1, 1]])), NUMBERS), "stream order"),
        (message(valid(layers=layer(nodes=[[1 << 61, 0, 1, 1]])), NUMBERS), "stream order"),
        (message(valid(layers=layer(nodes=[[0, 1, 1, 1], [1, 0, 1, 1]])), NUMBERS * 2), "overlap"),
        (HEAD.pack(b"bnshard\x01", 2) + b"{]", "not JSON"),
        (HEAD.pack(b"bnshard\x01", 3) + b"{ }", "not as this package"),
        (HEAD.pack(b"bnshard\x01", 200_000) + b"[" * 200_000, "not JSON"),
    ],
)  # fmt: skip
def test_hostile_moments_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ShardError, match=reason):
        ShardMoments.from_bytes(data)


def test_hostile_levels_are_refused() -> None:
    header = {"kind": "settled", "plan": "p", "level": 0, "layers": [{"name": "a", "channels": 2}]}
    assert SettledLevel.from_bytes(message(header, bytes(32))).statistics["a"].channels == 2
    for data in (message(header, bytes(24)), message(header, np.full(4, np.inf).tobytes())):
        with pytest.raises(ShardError):
            SettledLevel.from_bytes(data)


def test_messages_that_are_too_long_are_refused_unread() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return MAX_MESSAGE_BYTES + 1

    with pytest.raises(ShardError, match="longer than"):
        ShardMoments.from_bytes(Long(b"bnshard"))


def test_errors_are_of_the_packages_tree() -> None:
    assert issubclass(ShardError, BnOpsError)
