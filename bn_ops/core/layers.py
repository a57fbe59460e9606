"""Descriptions of a model and its layers, and the selection of layers by patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bn_ops.core.signature import TensorInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.errors import LayerPatternError, OptionError

__all__ = ["LayerInfo", "ModelInfo", "select_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One BatchNorm layer of a model.

    Attributes:
        name: stable name: module path (torch) or node name (ONNX).
        channels: C, or None where unknown.
        eps: the layer's epsilon.
        affine: whether the layer stores a scale other than 1 or a shift other than 0.
        statistics: the source statistics, or None where they cannot be read.
        input_rank: number of axes of the layer's input, or None where unknown.
        reason: why the layer cannot be recalibrated; None when it can.
    """

    name: LayerName
    channels: int | None
    eps: float
    affine: bool
    statistics: RunningStatistics | None
    input_rank: int | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Description of a model for recalibration.

    Attributes:
        inputs: the inputs that a batch must hold.
        outputs: the outputs of the model.
        layers: every BatchNorm layer, in the order of execution.
        warnings: sentences for the user.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    warnings: tuple[str, ...]


def select_layers(
    names: Iterable[LayerName], patterns: Sequence[str] | None
) -> frozenset[LayerName]:
    """Return the layers that glob patterns select.

    Args:
        names: all layers that could be recalibrated.
        patterns: globs to include; `"!glob"` excludes. If there are only exclusions, all other
            layers are selected; None selects all. Case-sensitive.

    Raises:
        LayerPatternError: a pattern matches no layer.
        OptionError: no layer is left, or `patterns` is a string instead of a list.
    """
    known = list(names)
    if patterns is None:
        return frozenset(known)
    if isinstance(patterns, str):
        raise OptionError(f"layers= takes a list of patterns, got the string {patterns!r}")
    included = [p for p in patterns if not p.startswith("!")]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    chosen = _matching(known, included) if included else set(known)
    chosen -= _matching(known, excluded)
    if not chosen:
        raise OptionError(f"the patterns {list(patterns)} leave no layer to recalibrate")
    return frozenset(chosen)


def _matching(names: Sequence[LayerName], patterns: Sequence[str]) -> set[LayerName]:
    found: set[LayerName] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatchcase(name, pattern)}
        if not hits:
            raise LayerPatternError(
                f"layer pattern {pattern!r} matches none of the {len(names)} layers "
                f"(the first is {names[0]!r})"
                if names
                else f"layer pattern {pattern!r} matches nothing: there is no layer",
                pattern=pattern,
            )
        found |= hits
    return found
