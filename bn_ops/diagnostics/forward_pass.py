"""One forward pass of a model over a few samples: its output tables and its layers' inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.engine import OnLayerInput, OnOutputs
from bn_ops.core.moments import Moments, merge
from bn_ops.core.signature import is_floating
from bn_ops.core.statistics import Float64Array, LayerName

__all__ = ["ForwardPass", "ForwardRunner", "observe"]

_TABLE_RANK = 2
_MIN_CLASSES = 2

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
        tables: outputs that may be classification heads, (samples, classes), in output order.
        inputs: moments of each layer's input over these samples.
    """

    tables: Mapping[str, Float64Array]
    inputs: Mapping[LayerName, Moments]


def observe(runner: ForwardRunner[BatchT_contra], batches: Iterable[BatchT_contra]) -> ForwardPass:
    """Run a model on a few samples and collect its output tables and its layers' inputs."""
    inputs: dict[LayerName, Moments] = {}
    parts: dict[str, list[Float64Array] | None] = {}

    def on_layer_input(name: LayerName, moments: Moments) -> None:
        known = inputs.get(name)
        inputs[name] = moments if known is None else merge(known, moments)

    def on_outputs(outputs: Mapping[str, NDArray[np.generic]]) -> None:
        for name, array in outputs.items():
            collected = parts.setdefault(name, [])
            if collected is not None and _is_table(array):
                collected.append(array.astype(np.float64))
            else:
                parts[name] = None

    runner(batches, on_outputs=on_outputs, on_layer_input=on_layer_input)
    tables = {name: collected for name, collected in parts.items() if collected}
    widths = {name: {part.shape[1] for part in collected} for name, collected in tables.items()}
    return ForwardPass(
        tables={n: np.concatenate(parts) for n, parts in tables.items() if len(widths[n]) == 1},
        inputs=inputs,
    )


def _is_table(array: NDArray[np.generic]) -> bool:
    has_classes = array.ndim == _TABLE_RANK and array.shape[1] >= _MIN_CLASSES
    return has_classes and is_floating(array.dtype)
