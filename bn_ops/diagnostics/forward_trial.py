"""One model run on a few samples: the tables it answers with, and what reaches its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, merge
from bn_ops.core.signature import is_floating
from bn_ops.core.statistics import Float64Array, LayerName

__all__ = ["Made", "Reached", "Run", "Trial", "try_out"]

_TABLE_RANK = 2
_FEWEST_CLASSES = 2

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)

Made = Callable[[Mapping[str, NDArray[np.generic]]], None]
"""Told the outputs of each batch by name, as far as they are tensors."""

Reached = Callable[[LayerName, Moments], None]
"""Told the moments of each input of a layer."""


class Run(Protocol[BatchT_contra]):
    """Runs a model, as it stands, on batches that its engine has already checked."""

    def __call__(
        self, batches: Iterable[BatchT_contra], *, made: Made, reached: Reached | None = None
    ) -> None:
        """Run each batch and tell what came out; with `reached`, watch the layers too."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one model did with a few samples.

    Attributes:
        tables: outputs that may be classification heads, (samples, classes), in output order.
        inputs: moments of each layer's input over these samples.
    """

    tables: Mapping[str, Float64Array]
    inputs: Mapping[LayerName, Moments]


def try_out(run: Run[BatchT_contra], batches: Iterable[BatchT_contra]) -> Trial:
    """Run a model on a few samples and watch its layers."""
    inputs: dict[LayerName, Moments] = {}
    parts: dict[str, list[Float64Array] | None] = {}

    def reached(name: LayerName, moments: Moments) -> None:
        held = inputs.get(name)
        inputs[name] = moments if held is None else merge(held, moments)

    def made(outputs: Mapping[str, NDArray[np.generic]]) -> None:
        for name, array in outputs.items():
            held = parts.setdefault(name, [])
            if held is not None and _is_table(array):
                held.append(array.astype(np.float64))
            else:
                parts[name] = None

    run(batches, made=made, reached=reached)
    tables = {name: held for name, held in parts.items() if held}
    widths = {name: {part.shape[1] for part in held} for name, held in tables.items()}
    return Trial(
        tables={n: np.concatenate(held) for n, held in tables.items() if len(widths[n]) == 1},
        inputs=inputs,
    )


def _is_table(array: NDArray[np.generic]) -> bool:
    wide = array.ndim == _TABLE_RANK and array.shape[1] >= _FEWEST_CLASSES
    return wide and is_floating(array.dtype)
