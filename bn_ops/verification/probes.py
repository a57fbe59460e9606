"""Samples to run both models on: the caller's own, and made-up ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import is_floating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bn_ops.core.signature import Batch, TensorInfo

__all__ = ["Probe", "made_up"]

Array = NDArray[np.generic]

_SAMPLES = 2
"""Samples per made-up batch: enough for a batch axis to show, cheap enough for any model."""

_FREE_SIZE = 64
"""Size of a free axis of which the caller's batches say nothing: networks divide images by 32, and
some pool what is left."""

_HUNDREDFOLD = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A batch to run.

    Attributes:
        label: which samples these are, for a person.
        batch: the inputs.
        made_up: whether the samples are not the caller's; a model may refuse such ones.
        usual: whether the outputs' usual scale may be read off this batch.
        exact: whether to run it in float64 too, where that is possible.
    """

    label: str
    batch: Batch
    made_up: bool = True
    usual: bool = False
    exact: bool = False


def made_up(
    inputs: Sequence[TensorInfo],
    example: Batch | None,
    *,
    size: int | None,
    seed: int,
    affordable: Callable[[Batch], int] = lambda _: 1,
) -> Iterator[Probe]:
    """Make random and extreme batches for a signature.

    Args:
        inputs: what the model takes.
        example: a batch of the caller's; free axes get its sizes, integers stay in its range.
        size: the number of samples that the model demands per run; None where it is free.
        seed: of numpy's PCG64; the same seed gives the same samples.
        affordable: how many of a batch's samples may run in float64.
    """
    samples = _SAMPLES if size is None else size
    generator = np.random.default_rng(seed)
    normal = {i.name: _normal(i, example, samples, generator) for i in inputs}
    yield Probe(label="random samples", batch=normal, usual=example is None)
    yield Probe(label="zeros", batch=_times(normal, 0.0))
    if example is not None:
        given = _first(example, samples)
        yield Probe(label="given samples, hundredfold", batch=_times(given, _HUNDREDFOLD))
        # A few: float64 costs a hundred times onnxruntime's float32.
        few = _first(example, affordable(example) if size is None else size)
        yield Probe(label="given samples, a few", batch=few, usual=True, exact=True)
    single = _first(normal, 1 if size is None else size)
    yield Probe(label="one random sample", batch=single, exact=True)
    yield Probe(label="one random sample, hundredfold", batch=_times(single, _HUNDREDFOLD))


def _normal(
    info: TensorInfo, example: Batch | None, samples: int, generator: np.random.Generator
) -> Array:
    """Draw standard normal numbers; integers and booleans from the range that the example shows."""
    given = None if example is None else example[info.name]
    shape = _shape(info, given, samples)
    dtype = _dtype(info.dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, size=shape).astype(np.bool_)
    if dtype.kind in "iu":
        low, high = (0, 1) if given is None or not given.size else (given.min(), given.max())
        # Any other index might not exist: an embedding has as many rows as it has.
        return generator.integers(int(low), int(high) + 1, size=shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def _shape(info: TensorInfo, given: Array | None, samples: int) -> tuple[int, ...]:
    if given is not None:
        return (samples, *given.shape[1:])
    sizes = (info.shape or (None, None))[1:]
    return (samples, *(size if isinstance(size, int) else _FREE_SIZE for size in sizes))


def _dtype(name: str) -> np.dtype[np.generic]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _first(batch: Batch, samples: int) -> Batch:
    return {name: array[:samples] for name, array in batch.items()}


def _times(batch: Batch, factor: float) -> Batch:
    """Multiply every floating input; the others have a meaning that a factor would destroy.

    What the element type cannot hold becomes its largest number.
    """
    return {name: _scaled(array, factor) for name, array in batch.items()}


def _scaled(array: Array, factor: float) -> Array:
    if not is_floating(array.dtype):
        return array
    largest = float(ml_dtypes.finfo(array.dtype).max)  # type: ignore[no-untyped-call]  # untyped package
    return np.clip(array.astype(np.float64) * factor, -largest, largest).astype(array.dtype)
