"""Cutting a graph at its BatchNorm layers into segments that run one after the other.

The level of a tensor is the largest number of recalibrated layers on a path to it. A recalibrated
layer raises the level by one, so all layers whose inputs are of level k can be measured once those
of lower levels are settled. Segment k holds the nodes of level k; tensors that a later segment
reads wait at the frontier. Nodes that no recalibrated layer depends on, the network's head for one,
are in no segment and never run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bn_ops.onnx_engine.batchnorm import INPUT, batchnorm_nodes
from bn_ops.onnx_engine.graph import GraphIndex, reads
from bn_ops.statistics import LayerName

__all__ = ["Plan", "Segment", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The nodes between two frontiers.

    Attributes:
        nodes: positions in the graph, in topological order.
        inputs: tensors from the frontier (or fed) that the segment reads.
        outputs: tensors that the segment makes and somebody needs: to measure, or later.
        measured: layer → the tensor that is its input; several layers may share one.
        released: frontier tensors that nobody reads after this segment.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    measured: Mapping[LayerName, str]
    released: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Segments in order, and what later ones read.

    Attributes:
        segments: at least one, when there is a layer to measure.
        stored: tensors that wait at the frontier after the segment that makes them.
    """

    segments: tuple[Segment, ...]
    stored: frozenset[str]


def make_plan(index: GraphIndex, layers: Iterable[LayerName]) -> Plan:
    """Plan the segments that measure the given layers (names as in the prepared graph)."""
    chosen = set(layers)
    targets = {n.name: n.input[INPUT] for _, n in batchnorm_nodes(index.graph) if n.name in chosen}
    flow = _flow(index, chosen, targets)
    depth = max((flow.measured_at(t) for t in targets.values()), default=-1) + 1
    return Plan(
        segments=tuple(_segment(index, level, flow, targets) for level in range(depth)),
        stored=frozenset(t for t, last in flow.last_read.items() if last > flow.made_at[t]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """When tensors are made and read.

    Attributes:
        nodes: position of each node that a measured layer depends on → its level.
        made_at: tensor → level that makes it; -1 for what is fed. Constants are not in it.
        last_read: tensor → the last level that reads it.
    """

    nodes: Mapping[int, int]
    made_at: Mapping[str, int]
    last_read: Mapping[str, int]

    def measured_at(self, tensor: str) -> int:
        """Level at which a tensor is measured: what is fed is measured in segment 0."""
        return max(self.made_at[tensor], 0)


def _flow(index: GraphIndex, chosen: set[LayerName], targets: Mapping[LayerName, str]) -> _Flow:
    levels = _levels(index, chosen)
    nodes = {position: levels[position] for position in _ancestors(index, targets.values())}
    made_at = {t: nodes[p] for p in nodes for t in index.graph.node[p].output if t}
    made_at |= dict.fromkeys(index.feeds, -1)
    last_read: dict[str, int] = {}
    for position, level in nodes.items():
        for name in reads(index.graph.node[position]):
            if name in made_at:
                last_read[name] = max(last_read.get(name, -1), level)
    return _Flow(nodes=nodes, made_at=made_at, last_read=last_read)


def _levels(index: GraphIndex, chosen: set[LayerName]) -> list[int]:
    """Level of each node: of the tensors that it makes."""
    of_tensor: dict[str, int] = {}
    levels = []
    for node in index.graph.node:
        level = max((of_tensor.get(name, 0) for name in reads(node)), default=0)
        if node.name in chosen and node.op_type == "BatchNormalization":
            level += 1
        levels.append(level)
        of_tensor.update(dict.fromkeys(node.output, level))
    return levels


def _ancestors(index: GraphIndex, tensors: Iterable[str]) -> list[int]:
    """Positions of every node that one of the tensors depends on, in topological order."""
    found: set[int] = set()
    waiting = list(tensors)
    while waiting:
        position = index.producer.get(waiting.pop())
        if position is not None and position not in found:
            found.add(position)
            waiting.extend(reads(index.graph.node[position]))
    return sorted(found)


def _segment(
    index: GraphIndex, level: int, flow: _Flow, targets: Mapping[LayerName, str]
) -> Segment:
    nodes = tuple(position for position, at in flow.nodes.items() if at == level)
    own = {t for p in nodes for t in index.graph.node[p].output if t}
    inputs = {t for p in nodes for t in reads(index.graph.node[p])} & flow.made_at.keys() - own
    measured = {n: t for n, t in targets.items() if flow.measured_at(t) == level}
    later = {t for t in own if flow.last_read.get(t, level) > level}
    seen = inputs | (set(measured.values()) - own)
    return Segment(
        nodes=nodes,
        inputs=tuple(sorted(inputs)),
        outputs=tuple(sorted(later | (set(measured.values()) & own))),
        measured=measured,
        released=frozenset(t for t in seen if flow.last_read.get(t, level) <= level),
    )
