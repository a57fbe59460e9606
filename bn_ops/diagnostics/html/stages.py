"""Group the layers of a network into stages, by the common parts of their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from bn_ops.diagnostics.report import LayerReport

__all__ = ["Stage", "stages"]

# Fewer layers are one stage: a second level of folding would only hide them.
_MIN_LAYERS = 13

_MAX_STAGES = 24
_MIN_STAGES = 2

# Fewer layers per stage, on average, would be a list of stages instead of a list of layers.
_MIN_MEAN = 2

# Most layers per stage where the names have no common parts.
_CHUNK = 10

_SEPARATOR = re.compile(r"[./]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Consecutive layers that belong together.

    Attributes:
        name: the common part of their names, or their numbers where there is none.
        layers: the layers, in order of execution.
        first: position of the first layer in the network, from 0.
    """

    name: str
    layers: tuple[LayerReport, ...]
    first: int


def stages(layers: Sequence[LayerReport]) -> tuple[Stage, ...]:
    """Return consecutive groups of layers; their concatenation is the input.

    The names are split at dots and slashes, and the names of a group share their first parts: as
    many as give the most groups, but at most 24, of two layers on average. Where no number of parts
    does, about ten layers are a stage.
    """
    if not layers:
        return ()
    if len(layers) < _MIN_LAYERS:
        return (Stage(name="all layers", layers=tuple(layers), first=0),)
    names = [_parts(layer.name) for layer in layers]
    best: tuple[int, list[int]] | None = None
    for depth in range(1, max(map(len, names))):
        runs = [len(tuple(run)) for _, run in groupby(parts[:depth] for parts in names)]
        fits = _MIN_STAGES <= len(runs) <= min(_MAX_STAGES, len(layers) // _MIN_MEAN)
        if fits and (best is None or len(runs) > len(best[1])):
            best = depth, runs
    return _chunks(layers) if best is None else _runs(layers, names, *best)


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in _SEPARATOR.split(name) if part)
    # The name of an exported node ends with that of its operator.
    return parts[:-1] if len(parts) > 1 and parts[-1].startswith("BatchNormalization") else parts


def _runs(
    layers: Sequence[LayerReport],
    names: Sequence[tuple[str, ...]],
    depth: int,
    runs: Sequence[int],
) -> tuple[Stage, ...]:
    found = []
    first = 0
    for length in runs:
        group = tuple(layers[first : first + length])
        found.append(Stage(name=".".join(names[first][:depth]), layers=group, first=first))
        first += length
    return tuple(found)


def _chunks(layers: Sequence[LayerReport]) -> tuple[Stage, ...]:
    """Return groups of nearly equal size."""
    count = min(_MAX_STAGES, -(-len(layers) // _CHUNK))
    starts = [len(layers) * index // count for index in range(count + 1)]
    return tuple(
        Stage(
            name=f"layers {first + 1} to {end}",
            layers=tuple(layers[first:end]),
            first=first,
        )
        for first, end in pairwise(starts)
    )
