"""One forward pass of a model over a few samples: its class scores and its layers' inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.engine import OnLayerInput, OnOutputs, Replay
from bn_ops.core.moments import Moments, merge
from bn_ops.core.statistics import Float64Array, LayerName
from bn_ops.diagnostics.class_outputs import ClassOutput, class_output, class_scores, has_classes
from bn_ops.errors import EngineError

__all__ = ["ForwardPass", "ForwardRunner", "observe", "replayed", "shared_class_output"]

_TABLE_RANK = 2

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class ForwardRunner(Protocol[BatchT_contra]):
    """Runs a model with its current statistics on batches that the engine has already checked."""

    def __call__(
        self,
        batches: Iterable[BatchT_contra],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """Run each batch and report its outputs, and layer inputs if a callback is given."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """What one model computed for a few samples.

    Attributes:
        tables: scores of outputs that may be classification heads, (n, 1, K), in output order.
        maps: scores of outputs that may be score maps, (n, P, K), in output order.
        inputs: moments of each observed layer's input.
    """

    tables: Mapping[str, Float64Array]
    maps: Mapping[str, Float64Array] = field(default_factory=dict)
    inputs: Mapping[LayerName, Moments] = field(default_factory=dict)

    def class_output(self, samples: int, name: str | None = None) -> ClassOutput | None:
        """Return the first usable output with classes: a table, else a score map.

        Args:
            samples: number of samples that were run.
            name: consider only this output.
        """
        for outputs, per_position in ((self.tables, False), (self.maps, True)):
            for key, scores in outputs.items():
                if name in {None, key}:
                    found = class_output(key, scores, samples=samples, per_position=per_position)
                    if found is not None:
                        return found
        return None


def shared_class_output(
    before: ForwardPass, after: ForwardPass, *, samples: int, maps: bool = True
) -> tuple[ClassOutput, ClassOutput] | None:
    """Return the first output with classes that is usable in both passes.

    Args:
        before: one pass.
        after: another pass over the same samples.
        samples: number of samples that were run.
        maps: whether score maps are considered where no table is usable.
    """
    for name in (*before.tables, *(before.maps if maps else ())):
        left, right = before.class_output(samples, name), after.class_output(samples, name)
        if left and right and left.probabilities.shape == right.probabilities.shape:
            return left, right
    return None


class _Collector:
    """Collects class scores of outputs, and moments of layer inputs."""

    def __init__(self) -> None:
        self.inputs: dict[LayerName, Moments] = {}
        self._tables: dict[str, list[Float64Array] | None] = {}
        self._maps: dict[str, list[Float64Array] | None] = {}

    def on_layer_input(self, name: LayerName, moments: Moments) -> None:
        known = self.inputs.get(name)
        self.inputs[name] = moments if known is None else merge(known, moments)

    def on_outputs(self, outputs: Mapping[str, NDArray[np.generic]]) -> None:
        for name, array in outputs.items():
            kind = self._tables if array.ndim == _TABLE_RANK else self._maps
            collected = kind.setdefault(name, [])
            if collected is not None and has_classes(array):
                collected.append(class_scores(array))
            else:
                kind[name] = None

    def result(self) -> ForwardPass:
        return ForwardPass(
            tables=_joined(self._tables), maps=_joined(self._maps), inputs=self.inputs
        )


def _joined(outputs: Mapping[str, Sequence[Float64Array] | None]) -> dict[str, Float64Array]:
    """Join the parts of each output that has classes in every batch, and as many."""
    return {
        name: np.concatenate(parts)
        for name, parts in outputs.items()
        if parts and len({part.shape[1:] for part in parts}) == 1
    }


def replayed(
    replay: Replay | None,
    positions: Sequence[int],
    sizes: Sequence[int],
    *,
    layer_batches: int,
) -> ForwardPass | None:
    """Collect what a forward pass over some batches would give, from a run that observed them.

    Args:
        replay: what the run observed; None if nothing.
        positions: the samples of the batches, in order.
        sizes: number of samples of each batch.
        layer_batches: as for `observe`.

    Returns:
        None where the run did not observe them, or the rest of the network cannot be run alone.
    """
    if replay is None or sum(sizes) != len(positions):
        return None
    ends = list(accumulate(sizes))
    batches = [positions[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    try:
        return observe(replay, batches, layer_batches=layer_batches)
    except EngineError:
        return None


def observe(
    runner: ForwardRunner[BatchT_contra],
    batches: Sequence[BatchT_contra],
    *,
    layer_batches: int | None = None,
) -> ForwardPass:
    """Run a model on a few samples and collect its class scores and its layers' inputs.

    Args:
        runner: runs the model.
        batches: the samples.
        layer_batches: number of batches in which layer inputs are observed, from the first on;
            None for all.
    """
    collector = _Collector()
    observed = len(batches) if layer_batches is None else layer_batches
    if batches[:observed]:
        runner(
            batches[:observed],
            on_outputs=collector.on_outputs,
            on_layer_input=collector.on_layer_input,
        )
    if batches[observed:]:
        runner(batches[observed:], on_outputs=collector.on_outputs)
    return collector.result()
