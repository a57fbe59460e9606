"""The order in which moments are merged depends on positions in the stream alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.moment_tree import CHUNK_SAMPLES, MomentTree, Node, join_trees
from bn_ops.core.moments import Moments, join, measure
from bn_ops.errors import OptionError

SHARDS = (1, 2, 4, 7, 11)


def batches_of(sizes: Sequence[int], channels: int = 3) -> list[tuple[int, Moments]]:
    """Return batches with their positions; values of very different sizes, so that order shows."""
    rng = np.random.default_rng(len(sizes))
    found, position = [], 0
    for size in sizes:
        scale = 10.0 ** rng.integers(-6, 7, (size, channels, 1))
        found.append((position, measure(rng.normal(1, 1, (size, channels, 5)) * scale)))
        position += size
    return found


def content(moments: Moments) -> bytes:
    sums = moments.sample_sums
    arrays = (moments.mean, moments.sum_sq_dev, sums.center, sums.a, sums.e, sums.aa, sums.ae)
    counts = f"{moments.samples} {moments.count}".encode()
    return b"".join([counts, *(array.tobytes() for array in (*arrays, sums.ee))])


def tree_of(batches: Sequence[tuple[int, Moments]], *, ordered: bool = True) -> MomentTree:
    tree = MomentTree(ordered=ordered)
    for position, moments in batches:
        tree.add(position, moments)
    return tree


def union(trees: Sequence[MomentTree]) -> MomentTree:
    return MomentTree(nodes={node: m for tree in trees for node, m in tree.nodes().items()})


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.data())
def test_any_number_of_shards_gives_the_same_bits(sizes: list[int], data: st.DataObject) -> None:
    batches = batches_of(sizes)
    whole = tree_of(batches)
    borders = [
        index
        for index in range(1, len(batches))
        if batches[index][0] // CHUNK_SAMPLES > batches[index - 1][0] // CHUNK_SAMPLES
    ]
    for shards in SHARDS:
        cuts = sorted(data.draw(st.permutations(borders))[: shards - 1])
        parts = [batches[a:b] for a, b in pairwise([0, *cuts, len(batches)])]
        merged = union([tree_of(part, ordered=data.draw(st.booleans())) for part in parts])
        assert content(merged.total()) == content(whole.total())


def test_merging_totals_of_shards_would_change_the_bits() -> None:
    batches = batches_of([16] * 40)
    merged = MomentTree()
    for part in (batches[:12], batches[12:]):
        merged.add(0, tree_of(part).total())
    assert content(merged.total()) != content(tree_of(batches).total())


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60))
def test_total_is_that_of_all_samples(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (sum(sizes), 2, 4))
    parts = np.split(x, np.cumsum(sizes)[:-1])
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    found = tree_of(list(zip(starts, map(measure, parts), strict=True))).total()
    assert (found.samples, found.count) == (len(x), len(x) * 4)
    np.testing.assert_allclose(found.mean, x.mean((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(found.var_population, x.var((0, 2)), rtol=1e-12)


def test_a_shard_keeps_few_nodes() -> None:
    batches = batches_of([64] * 300, channels=1)
    nodes = tree_of(batches[37:290]).nodes()
    assert len(nodes) <= 2 * 8
    covered = sorted(chunk for node in nodes for chunk in range(node.first, node.stop))
    assert covered == list(range(37, 290))


def test_positions_far_apart_are_merged() -> None:
    batches = batches_of([10, 20])
    apart = tree_of([batches[0], (1 << 50, batches[1][1])])
    near = tree_of([batches[0], (CHUNK_SAMPLES, batches[1][1])])
    assert content(apart.total()) == content(near.total())
    assert apart.nodes().keys() == {Node(44, 0), Node(0, 1 << 44)}


def test_joined_trees_are_trees_of_joined_channels() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(0, 1, (40, 5, 3)) for _ in range(6)]
    left, right, both = MomentTree(), MomentTree(), MomentTree()
    for number, x in enumerate(parts):
        left.add(40 * number, measure(x[:, :2]))
        right.add(40 * number, measure(x[:, 2:]))
        both.add(40 * number, join([measure(x[:, :2]), measure(x[:, 2:])]))
    assert content(join_trees([left, right]).total()) == content(both.total())
    short = tree_of([(0, measure(parts[0][:, 2:]))])
    with pytest.raises(OptionError, match="same samples"):
        join_trees([left, short])


def test_an_empty_tree_has_no_total() -> None:
    assert MomentTree().nodes() == {}
    with pytest.raises(OptionError, match="no moments"):
        MomentTree().total()
