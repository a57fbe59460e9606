"""What shards and their conductor exchange: moments of one level up, its statistics down.

Both have a byte form: eight bytes of magic with the version of the format, the length of a JSON
header (four bytes, little-endian), the header, and float64 arrays, little-endian, in the order of
the header. Equal values, with layers in the same order, have equal bytes. Bytes from elsewhere are
checked before they are used.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moment_tree import CHUNK_SAMPLES, MomentTree, Node
from bn_ops.core.moments import Moments, SampleSums
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.errors import ShardError, ShardMismatchError

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MOMENT_ARRAYS",
    "STATISTICS_ARRAYS",
    "SettledLevel",
    "ShardMoments",
    "merge_moments",
]

MAX_MESSAGE_BYTES = 1 << 30
"""Longer messages are rejected unread."""

_MAGIC = b"bnshard\x01"
_LENGTH = struct.Struct("<I")

# Positions of a stream are below 2^62.
_MAX_HEIGHT = 56
_MAX_INTEGER = 1 << 62
_MAX_CHANNELS = 1 << 24

MOMENT_ARRAYS = 8
"""float64 arrays per layer and node: mean, sum_sq_dev and the six of `SampleSums`."""

STATISTICS_ARRAYS = 2
"""float64 arrays per settled layer: mean and variance."""

# Height, number, samples and count of a node.
_NODE_NUMBERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMoments:
    """The moments of one level, measured by one shard or by several.

    Attributes:
        plan: sha256 of the plan: the model, the layers and the options.
        kernels: what else the last bits of moments depend on: versions, processor, execution.
        level: number of levels that were settled before.
        samples: number of samples of the shard.
        layers: by layer, in the order of execution, moments by node of the tree (see
            `bn_ops.core.moment_tree`). Empty where every layer has been measured, or the shard has
            no samples.
    """

    plan: str
    kernels: Mapping[str, str]
    level: int
    samples: int
    layers: Mapping[LayerName, Mapping[Node, Moments]]

    @property
    def sha256(self) -> str:
        """sha256 of the bytes, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def totals(self) -> dict[LayerName, Moments]:
        """Return the moments of each layer."""
        return {name: MomentTree(nodes=nodes).total() for name, nodes in self.layers.items()}

    def pooled(self) -> ShardMoments:
        """Return the same with one node per layer, the lowest that covers all.

        So the message has nothing about parts of the shard's samples. The positions between the
        first and the last sample then belong to this shard alone, so give it positions far from
        those of others.
        """
        return replace(
            self,
            layers={
                name: {_covering(nodes): MomentTree(nodes=nodes).total()}
                for name, nodes in self.layers.items()
            },
        )

    def to_bytes(self) -> bytes:
        """Return the byte form."""
        layers = list(self.layers.items())
        header = {
            "kind": "moments",
            "plan": self.plan,
            "kernels": dict(self.kernels),
            "level": self.level,
            "samples": self.samples,
            "layers": [
                {
                    "name": name,
                    "channels": next(iter(nodes.values())).channels,
                    "nodes": [
                        [*node, nodes[node].samples, nodes[node].count] for node in _by(nodes)
                    ],
                }
                for name, nodes in layers
            ],
        }
        arrays = [a for _, nodes in layers for node in _by(nodes) for a in _arrays(nodes[node])]
        return _encoded(header, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardMoments:
        """Return the moments that `to_bytes` encoded.

        Raises:
            ShardError: the bytes are anything else.
        """
        header, values = _decoded(data, "moments")
        layers: dict[LayerName, dict[Node, Moments]] = {}
        for entry in _objects(header, "layers"):
            name, channels = _new_name(entry, layers), _integer(entry, "channels", 1, _MAX_CHANNELS)
            layers[name] = dict(_read_nodes(entry, channels, values))
        values.require_end()
        samples = _integer(header, "samples", 0, _MAX_INTEGER)
        if layers and not samples:
            raise ShardError("the message holds moments of no sample")
        return cls(
            plan=_text(header, "plan"),
            kernels=_texts(header, "kernels"),
            level=_integer(header, "level", 0, _MAX_INTEGER),
            samples=samples,
            layers=layers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledLevel:
    """The statistics of one level, for every shard to continue with.

    Attributes:
        plan: sha256 of the plan.
        level: the level, from 0.
        statistics: the new running statistics of its layers.
    """

    plan: str
    level: int
    statistics: Mapping[LayerName, RunningStatistics]

    def to_bytes(self) -> bytes:
        """Return the byte form."""
        layers = sorted(self.statistics.items())
        header = {
            "kind": "settled",
            "plan": self.plan,
            "level": self.level,
            "layers": [{"name": name, "channels": new.channels} for name, new in layers],
        }
        return _encoded(header, [array for _, new in layers for array in (new.mean, new.var)])

    @classmethod
    def from_bytes(cls, data: bytes) -> SettledLevel:
        """Return the level that `to_bytes` encoded.

        Raises:
            ShardError: the bytes are anything else.
        """
        header, values = _decoded(data, "settled")
        statistics: dict[LayerName, RunningStatistics] = {}
        for entry in _objects(header, "layers"):
            name = _new_name(entry, statistics)
            mean, var = values.take(
                STATISTICS_ARRAYS, _integer(entry, "channels", 1, _MAX_CHANNELS)
            )
            statistics[name] = RunningStatistics(mean=mean, var=var)
        values.require_end()
        return cls(
            plan=_text(header, "plan"),
            level=_integer(header, "level", 0, _MAX_INTEGER),
            statistics=statistics,
        )


def merge_moments(parts: Iterable[ShardMoments], *, allow_mixed: bool = False) -> ShardMoments:
    """Merge what several shards measured of the same level; their order has no effect.

    Args:
        parts: moments of shards, or of shards that were merged before.
        allow_mixed: accept shards that ran different versions, processors or executions, whose
            moments differ in their last bits.

    Raises:
        ShardMismatchError: they are not parts of one measurement: different plans, levels, layers
            or kernels, or two hold samples of the same positions.
        ShardError: `parts` is empty.
    """
    found = list(parts)
    if not found:
        raise ShardError("there are no moments to merge: a measurement needs at least one shard")
    for number, part in enumerate(found):
        _check_same(found[0], part, number)
    filled = [(number, part) for number, part in enumerate(found) if part.samples]
    for number, part in filled:
        _check_layers(filled[0], number, part)
        if not allow_mixed:
            _check_kernels(filled[0], number, part)
    names = tuple(filled[0][1].layers) if filled else ()
    return ShardMoments(
        plan=found[0].plan,
        kernels=_common([part.kernels for _, part in filled]),
        level=found[0].level,
        samples=sum(part.samples for part in found),
        layers={name: _union([(n, part.layers[name]) for n, part in filled]) for name in names},
    )


def _check_same(first: ShardMoments, part: ShardMoments, number: int) -> None:
    if part.plan != first.plan:
        raise ShardMismatchError(
            f"shard {number} measured by another plan than shard 0: every shard needs the same "
            "model, layers and options"
        )
    if part.level != first.level:
        raise ShardMismatchError(
            f"shard {number} is at level {part.level}, shard 0 at level {first.level}: "
            "all shards measure a level before any continues with the next"
        )


def _check_layers(first: tuple[int, ShardMoments], number: int, part: ShardMoments) -> None:
    one, other = first
    if part.layers.keys() != other.layers.keys():
        raise ShardMismatchError(
            f"shard {one} measured the layers {sorted(other.layers)} and shard {number} "
            f"{sorted(part.layers)}: the network takes branches that depend on the data, so "
            "its stream has to be measured in one process"
        )
    for name, nodes in part.layers.items():
        channels = {moments.channels for moments in (*nodes.values(), *other.layers[name].values())}
        if len(channels) > 1:
            raise ShardMismatchError(
                f"layer {name!r} has {' and '.join(map(str, sorted(channels)))} channels in "
                f"shards {one} and {number}"
            )


def _check_kernels(first: tuple[int, ShardMoments], number: int, part: ShardMoments) -> None:
    one, (mine, theirs) = first[0], (first[1].kernels, part.kernels)
    differing = [n for n in sorted(mine.keys() | theirs.keys()) if mine.get(n) != theirs.get(n)]
    if differing:
        listed = ", ".join(
            f"{name} ({mine.get(name, 'none')} and {theirs.get(name, 'none')})"
            for name in differing
        )
        raise ShardMismatchError(
            f"shards {one} and {number} differ in {listed}, so their moments differ in the last "
            "bits: run every shard with the same versions on the same kind of processor, or plan "
            "with allow_mixed=True"
        )


def _union(parts: Sequence[tuple[int, Mapping[Node, Moments]]]) -> dict[Node, Moments]:
    """Return the nodes of one layer from all shards, in stream order."""
    owned = sorted((node.first, node.stop, n, node) for n, nodes in parts for node in nodes)
    for (_, stop, one, _), (first, _, other, _) in pairwise(owned):
        if first < stop:
            raise ShardMismatchError(
                f"shards {min(one, other)} and {max(one, other)} both hold samples of the "
                f"{CHUNK_SAMPLES} positions from {first * CHUNK_SAMPLES}: start each shard at the "
                f"position of its first sample, a multiple of {CHUNK_SAMPLES} (see shard_ranges)"
            )
    nodes = {node: moments for _, part in parts for node, moments in part.items()}
    return {node: nodes[node] for *_, node in owned}


def _common(kernels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what is equal everywhere."""
    if not kernels:
        return {}
    return {n: v for n, v in kernels[0].items() if all(k.get(n) == v for k in kernels)}


def _covering(nodes: Iterable[Node]) -> Node:
    """Return the lowest node that covers all nodes."""
    known = list(nodes)
    first = min(node.first for node in known)
    height = (first ^ (max(node.stop for node in known) - 1)).bit_length()
    return Node(height, first >> height)


def _by(nodes: Iterable[Node]) -> list[Node]:
    """Return nodes in stream order."""
    return sorted(nodes, key=lambda node: (node.first, node.stop))


def _arrays(moments: Moments) -> tuple[Float64Array, ...]:
    sums = moments.sample_sums
    pooled = (moments.mean, moments.sum_sq_dev)
    return (*pooled, sums.center, sums.a, sums.e, sums.aa, sums.ae, sums.ee)


def _encoded(header: Mapping[str, Any], arrays: Iterable[Float64Array]) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    payload = [np.ascontiguousarray(array, dtype="<f8").tobytes() for array in arrays]
    return b"".join([_MAGIC, _LENGTH.pack(len(text)), text, *payload])


class _Values:
    """The float64 arrays of a message, read in order."""

    def __init__(self, data: bytes, offset: int) -> None:
        if (len(data) - offset) % 8:
            raise ShardError("the message is cut off or damaged: it ends within a number")
        self._values: NDArray[np.float64] = np.frombuffer(data, "<f8", offset=offset)
        self._taken = 0

    def take(self, arrays: int, channels: int) -> Float64Array:
        """Return the next arrays, shape (arrays, channels), copied."""
        stop = self._taken + arrays * channels
        if stop > self._values.size:
            raise ShardError("the message is cut off: it holds fewer numbers than its header says")
        found = self._values[self._taken : stop].astype(np.float64).reshape(arrays, channels)
        self._taken = stop
        if not np.isfinite(found).all():
            raise ShardError("the message holds NaN or Inf, which no shard measures")
        return found

    def require_end(self) -> None:
        """Reject values that the header does not describe."""
        if self._taken != self._values.size:
            raise ShardError("the message holds more numbers than its header says")


def _decoded(data: bytes, kind: str) -> tuple[dict[str, Any], _Values]:
    start = len(_MAGIC) + _LENGTH.size
    if len(data) > MAX_MESSAGE_BYTES:
        raise ShardError(f"the message is longer than {MAX_MESSAGE_BYTES:,} bytes")
    if len(data) < start or not data.startswith(_MAGIC):
        raise ShardError(
            "the bytes are not a message of this version of bnrecal: they do not begin with its "
            "magic number"
        )
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    text = data[start : start + length]
    if len(text) != length:
        raise ShardError("the message is cut off within its header")
    try:
        header = json.loads(text)
        canonical = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise ShardError("the header of the message is not JSON") from error
    if not isinstance(header, dict) or canonical != text:
        raise ShardError("the header of the message is not as this package writes it")
    if header.get("kind") != kind:
        raise ShardError(f"expected a message of kind {kind!r}, got {header.get('kind')!r}")
    return header, _Values(data, start + length)


def _read_nodes(
    entry: Mapping[str, Any], channels: int, values: _Values
) -> Iterator[tuple[Node, Moments]]:
    rows = entry.get("nodes")
    if not isinstance(rows, list) or not rows:
        raise ShardError("a layer of the message has no moments")
    last = 0
    for row in rows:
        if not isinstance(row, list) or len(row) != _NODE_NUMBERS or not all(map(_is_count, row)):
            raise ShardError("a node is not four integers: height, number, samples and count")
        node, samples, count = Node(row[0], row[1]), row[2], row[3]
        if node.height > _MAX_HEIGHT or node.first < last or node.stop > _MAX_INTEGER:
            raise ShardError("the nodes of a layer are not in stream order, or overlap")
        if not 0 < samples <= count:
            raise ShardError(f"{count} values per channel cannot come from {samples} samples")
        last = node.stop
        mean, sum_sq_dev, center, a, e, aa, ae, ee = values.take(MOMENT_ARRAYS, channels)
        if (sum_sq_dev < 0).any():
            raise ShardError("a sum of squared deviations is negative")
        yield (
            node,
            Moments(
                samples=samples,
                count=count,
                mean=mean,
                sum_sq_dev=sum_sq_dev,
                sample_sums=SampleSums(center=center, a=a, e=e, aa=aa, ae=ae, ee=ee),
            ),
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MAX_INTEGER


def _integer(entry: Mapping[str, Any], name: str, least: int, limit: int) -> int:
    value = entry.get(name)
    if type(value) is not int or not least <= value < limit:
        raise ShardError(f"{name!r} is not an integer from {least} to {limit - 1}")
    return value


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ShardError(f"{name!r} is not a string")
    return value


def _texts(entry: Mapping[str, Any], name: str) -> dict[str, str]:
    value = entry.get(name)
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ShardError(f"{name!r} is not an object of strings")
    return value


def _objects(entry: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ShardError(f"{name!r} is not a list of objects")
    return value


def _new_name(entry: Mapping[str, Any], known: Mapping[LayerName, object]) -> LayerName:
    name = _text(entry, "name")
    if name in known:
        raise ShardError(f"layer {name!r} occurs twice in the message")
    return name
