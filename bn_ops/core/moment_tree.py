"""Moments of a stream along a fixed binary tree, with the same bits on any number of shards.

Floating-point addition is not associative, so the order of merges determines the last bits. Here it
depends on positions in the stream alone. A stream consists of chunks of `CHUNK_SAMPLES` positions.
Moments that begin in one chunk are merged left to right; chunks are merged along the binary tree
over their indices, in which node (h, i) covers the chunks i·2^h to (i+1)·2^h - 1, and an empty
child is skipped. A shard that measures some consecutive chunks therefore computes the same nodes as
a process that measures all of them, and ships at most 2·log2(chunks) of them per layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bn_ops.core.moments import Moments, join, merge
from bn_ops.errors import OptionError

__all__ = ["CHUNK_SAMPLES", "MomentTree", "Node", "join_trees"]

CHUNK_SAMPLES = 64
"""Positions per chunk: the granularity at which a stream can be cut into shards."""


class Node(NamedTuple):
    """A node of the tree.

    Attributes:
        height: 0 for a chunk.
        number: position among the nodes of its height.
    """

    height: int
    number: int

    @property
    def first(self) -> int:
        """Its first chunk."""
        return self.number << self.height

    @property
    def stop(self) -> int:
        """The chunk after its last one."""
        return (self.number + 1) << self.height

    @property
    def parent(self) -> Node:
        """The node above it."""
        return Node(self.height + 1, self.number >> 1)


class MomentTree:
    """Moments of one layer's input, by nodes.

    Args:
        ordered: whether positions never decrease. Complete nodes are then merged on the way, so
            that only as many are kept as the tree is high.
        nodes: the nodes to start with; they cover different chunks.
    """

    def __init__(
        self, *, ordered: bool = True, nodes: Mapping[Node, Moments] | None = None
    ) -> None:
        self._ordered = ordered
        self._nodes: dict[Node, Moments] = dict(nodes or {})
        self._last: int | None = None

    def copy(self) -> MomentTree:
        """Return a tree of the same moments, to which others can be added."""
        tree = MomentTree(ordered=self._ordered, nodes=self._nodes)
        tree._last = self._last
        return tree

    def add(self, position: int, moments: Moments) -> None:
        """Add the moments of consecutive samples.

        Args:
            position: of the first of these samples in the stream.
            moments: their moments.
        """
        chunk = position // CHUNK_SAMPLES
        if self._ordered and self._last is not None and chunk > self._last:
            self._nodes = _merged(self._nodes, stop=chunk)
        self._last = chunk
        node = Node(0, chunk)
        known = self._nodes.get(node)
        self._nodes[node] = moments if known is None else merge(known, moments)

    def nodes(self) -> dict[Node, Moments]:
        """Return the highest nodes within the chunks from the first to the last one added."""
        return _merged(self._nodes, stop=max((node.stop for node in self._nodes), default=0))

    def total(self) -> Moments:
        """Return the moments of the whole stream.

        Raises:
            OptionError: nothing was added.
        """
        found = _merged(self._nodes, stop=None)
        if not found:
            raise OptionError("there are no moments to merge")
        (total,) = found.values()
        return total


def join_trees(trees: Sequence[MomentTree]) -> MomentTree:
    """Join the trees of tensors that are concatenated along the channel axis.

    Raises:
        OptionError: the trees are not of the same samples and positions.
    """
    if len(trees) == 1:
        return trees[0]
    parts = [tree.nodes() for tree in trees]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise OptionError("only moments of the same samples and positions can be joined")
    return MomentTree(nodes={node: join([part[node] for part in parts]) for node in parts[0]})


def _merged(nodes: Mapping[Node, Moments], *, stop: int | None) -> dict[Node, Moments]:
    """Merge nodes as far as their parents cover known chunks only.

    Args:
        nodes: nodes that cover different chunks.
        stop: the chunk after the last known one; the known ones begin with the first of the nodes.
            None if every chunk is known, so that one node is left.
    """
    first = min((node.first for node in nodes), default=0)
    waiting, kept = dict(nodes), dict[Node, Moments]()
    height = 0
    while len(waiting) > (1 if stop is None else 0):
        for node in sorted(_of_height(waiting, height)):
            moments = waiting.pop(node)
            parent = node.parent
            if stop is not None and (parent.first < first or parent.stop > stop):
                kept[node] = moments
            elif parent in waiting:
                waiting[parent] = merge(waiting[parent], moments)
            else:
                waiting[parent] = moments
        height += 1
    return kept | waiting


def _of_height(nodes: Iterable[Node], height: int) -> list[Node]:
    return [node for node in nodes if node.height == height]
