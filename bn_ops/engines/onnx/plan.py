"""Cut a graph at its BatchNorm layers into segments that run one after another.

The level of a tensor is the largest number of recalibrated layers on a path to it. A recalibrated
layer raises the level by one, so all layers whose inputs have level k can be measured once those of
lower levels are committed. Segment k holds the nodes of level k; tensors that a later segment reads
wait at the frontier. Nodes that no recalibrated layer depends on, such as the network's head, are
in no segment and do not run; the plan describes them as its head where it is asked for outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.batchnorm import INPUT, batchnorm_nodes
from bn_ops.engines.onnx.graph import GraphIndex, is_standard, reads

if TYPE_CHECKING:
    import onnx

__all__ = ["Plan", "Segment", "Target", "make_plan", "plan_targets", "uncut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A layer to measure.

    Attributes:
        position: the node at which the level rises.
        tensor: its input.
    """

    position: int
    tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The nodes between two frontiers.

    Attributes:
        nodes: positions in the graph, in topological order.
        inputs: tensors from the frontier, or model inputs, that the segment reads.
        outputs: tensors of the segment that are measured or read later.
        measured: layer whose input is complete after the segment → its input tensor; several
            layers may share one.
        parts: the same layers → the tensors that make up their input, in the order of channels;
            some may have been reduced in earlier segments.
        reduced: the parts whose moments are measured in this segment.
        released: frontier tensors that no later segment reads.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    measured: Mapping[LayerName, str]
    parts: Mapping[LayerName, tuple[str, ...]]
    reduced: tuple[str, ...]
    released: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Segments in order, and the tensors that later ones read.

    Attributes:
        segments: at least one if there is a layer to measure.
        stored: tensors that wait at the frontier after the segment that outputs them.
        head: the rest of the nodes that the wanted outputs depend on; None where none are wanted.
    """

    segments: tuple[Segment, ...]
    stored: frozenset[str]
    head: Segment | None = None


def make_plan(index: GraphIndex, layers: Iterable[LayerName], *, split: bool = False) -> Plan:
    """Plan the segments that measure the given layers.

    Args:
        index: the prepared graph.
        layers: names as in the prepared graph.
        split: whether concatenated tensors are measured in parts, each part once.
    """
    chosen = set(layers)
    return plan_targets(
        index,
        {
            node.name: Target(position=position, tensor=node.input[INPUT])
            for position, node in batchnorm_nodes(index.graph)
            if node.name in chosen
        },
        split=split,
    )


def plan_targets(
    index: GraphIndex,
    targets: Mapping[LayerName, Target],
    *,
    split: bool,
    outputs: Collection[str] = (),
    recomputed: Collection[str] = (),
) -> Plan:
    """Plan the segments that measure the given nodes' inputs.

    Args:
        index: the graph.
        targets: the layers to measure.
        split: as in `make_plan`.
        outputs: graph outputs to plan a head for; segments then also output what it reads.
        recomputed: tensors that do not wait at the frontier: each later segment that reads one
            computes it again, from the inputs of the node that outputs it. None of these inputs
            may be recomputed itself.
    """
    parts = {
        layer: tuple(_parts(index, target.tensor)) if split else (target.tensor,)
        for layer, target in targets.items()
    }
    flow = _flow(index, targets.values(), frozenset(recomputed))
    depth = max((flow.measured_at(t.tensor) for t in targets.values()), default=-1) + 1
    head = _head(index, flow, outputs) if outputs else None
    kept = frozenset() if head is None else frozenset(head.inputs)
    return Plan(
        segments=tuple(
            _segment(index, level, flow, targets, parts, kept=kept) for level in range(depth)
        ),
        stored=frozenset(t for t, last in flow.last_read.items() if last > flow.made_at[t]),
        head=head,
    )


def uncut(index: GraphIndex, tensors: Collection[str]) -> Segment:
    """Return all nodes that some tensors depend on as one segment that outputs these tensors.

    Tensors among them that are inputs of the graph are no outputs of the segment.
    """
    nodes = tuple(_ancestors(index, tensors))
    read = {t for p in nodes for t in reads(index.graph.node[p])}
    return Segment(
        nodes=nodes,
        inputs=tuple(sorted(read & set(index.feeds))),
        outputs=tuple(sorted(set(tensors) - set(index.feeds))),
        measured={},
        parts={},
        reduced=(),
        released=frozenset(),
    )


def _head(index: GraphIndex, flow: _Flow, outputs: Collection[str]) -> Segment:
    """Return the nodes of no segment that outputs depend on; outputs of segments are its inputs."""
    nodes = tuple(p for p in _ancestors(index, outputs) if p not in flow.nodes)
    own = {t for p in nodes for t in index.graph.node[p].output if t}
    read = {t for p in nodes for t in reads(index.graph.node[p])} | set(outputs)
    return Segment(
        nodes=nodes,
        inputs=tuple(sorted(read & flow.made_at.keys() - own)),
        outputs=tuple(sorted(own & set(outputs))),
        measured={},
        parts={},
        reduced=(),
        released=frozenset(),
    )


def _parts(index: GraphIndex, tensor: str) -> Iterator[str]:
    """Yield the tensors that a tensor concatenates along the channel axis, or the tensor itself.

    A densely connected network concatenates the same tensors repeatedly: measured in parts, each
    value is read once instead of once per layer.
    """
    position = index.producer.get(tensor)
    node = None if position is None else index.graph.node[position]
    if node is not None and node.op_type == "Concat" and is_standard(node) and _joins(index, node):
        for part in node.input:
            yield from _parts(index, part)
    else:
        yield tensor


def _joins(index: GraphIndex, node: onnx.NodeProto) -> bool:
    constant = any(name in index.initializers for name in node.input)
    return not constant and next((a.i for a in node.attribute if a.name == "axis"), 0) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """The levels at which tensors are output and read.

    Attributes:
        nodes: position of each node that a measured layer depends on → its level.
        made_at: tensor → level that outputs it; -1 for model inputs. Constants are not included.
        last_read: tensor → the last level that reads it; of recomputed tensors, the level that
            outputs them first.
        recomputed: the tensors that do not wait at the frontier.
    """

    nodes: Mapping[int, int]
    made_at: Mapping[str, int]
    last_read: Mapping[str, int]
    recomputed: frozenset[str]

    def measured_at(self, tensor: str) -> int:
        """Return the level at which a tensor is measured; 0 for model inputs."""
        return max(self.made_at[tensor], 0)


def _flow(index: GraphIndex, targets: Collection[Target], recomputed: frozenset[str]) -> _Flow:
    levels = _levels(index, {target.position for target in targets})
    nodes = {p: levels[p] for p in _ancestors(index, (target.tensor for target in targets))}
    made_at = {t: nodes[p] for p in nodes for t in index.graph.node[p].output if t}
    made_at |= dict.fromkeys(index.feeds, -1)
    last_read: dict[str, int] = {}
    for position, level in nodes.items():
        for name in _waiting(index, position, level, made_at, recomputed):
            last_read[name] = max(last_read.get(name, -1), level)
    return _Flow(nodes=nodes, made_at=made_at, last_read=last_read, recomputed=recomputed)


def _waiting(
    index: GraphIndex,
    position: int,
    level: int,
    made_at: Mapping[str, int],
    recomputed: frozenset[str],
) -> Iterator[str]:
    """Yield the tensors that a node and the recomputed nodes before it read."""
    for name in reads(index.graph.node[position]):
        if name in recomputed and made_at[name] < level:
            yield from _waiting(index, index.producer[name], level, made_at, frozenset())
        elif name in made_at:
            yield name


def _levels(index: GraphIndex, raising: Collection[int]) -> list[int]:
    """Return the level of each node, which is that of its outputs."""
    of_tensor: dict[str, int] = {}
    levels = []
    for position, node in enumerate(index.graph.node):
        level = max((of_tensor.get(name, 0) for name in reads(node)), default=0)
        if position in raising:
            # Only the normalized input determines the level: an optimizer may have fused the
            # addition of a later tensor into the layer's node.
            level = max(level, of_tensor.get(node.input[INPUT], 0) + 1)
        levels.append(level)
        of_tensor.update(dict.fromkeys(node.output, level))
    return levels


def _ancestors(index: GraphIndex, tensors: Iterable[str]) -> list[int]:
    """Return the positions of all nodes that the tensors depend on, in topological order."""
    found: set[int] = set()
    waiting = list(tensors)
    while waiting:
        position = index.producer.get(waiting.pop())
        if position is not None and position not in found:
            found.add(position)
            waiting.extend(reads(index.graph.node[position]))
    return sorted(found)


def _segment(
    index: GraphIndex,
    level: int,
    flow: _Flow,
    targets: Mapping[LayerName, Target],
    parts: Mapping[LayerName, tuple[str, ...]],
    *,
    kept: frozenset[str],
) -> Segment:
    made = [position for position, at in flow.nodes.items() if at == level]
    fresh = {t for p in made for t in index.graph.node[p].output if t}
    read = {t for p in made for t in reads(index.graph.node[p])} & flow.recomputed - fresh
    nodes = tuple(sorted({*made, *(index.producer[t] for t in read)}))
    own = fresh | read
    inputs = {t for p in nodes for t in reads(index.graph.node[p])} & flow.made_at.keys() - own
    needed = dict.fromkeys(part for tensors in parts.values() for part in tensors)
    reduced = tuple(part for part in needed if flow.measured_at(part) == level)
    measured = {n: t.tensor for n, t in targets.items() if flow.measured_at(t.tensor) == level}
    later = {t for t in fresh if flow.last_read.get(t, level) > level}
    seen = inputs | (set(reduced) - own)
    return Segment(
        nodes=nodes,
        inputs=tuple(sorted(inputs)),
        outputs=tuple(sorted(later | ((set(reduced) | kept) & fresh))),
        measured=measured,
        parts={layer: parts[layer] for layer in measured},
        reduced=reduced,
        released=frozenset(t for t in seen if flow.last_read.get(t, level) <= level),
    )
