"""Samples to run both models on: the caller's own, and made-up ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bn_ops.signature import Batch, TensorInfo

__all__ = ["Probe", "made_up"]

Array = NDArray[np.generic]

_SAMPLES = 2
"""Samples per made-up batch: enough for a batch axis to show, cheap enough for any model."""

_FREE_SIZE = 32
"""Size of a free axis of which the caller's batches say nothing."""

_HUNDREDFOLD = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A batch to run.

    Attributes:
        label: which samples these are, for a person.
        batch: the inputs.
        made_up: whether the samples are not the caller's; a model may refuse such ones.
        usual: whether the outputs' usual scale may be read off this batch.
    """

    label: str
    batch: Batch
    made_up: bool
    usual: bool


def made_up(
    inputs: Sequence[TensorInfo], example: Batch | None, *, size: int | None, seed: int
) -> Iterator[Probe]:
    """Make random and extreme batches for a signature.

    Args:
        inputs: what the model takes.
        example: a batch of the caller's; free axes get its sizes, integers stay in its range.
        size: the number of samples that the model demands per run; None where it is free.
        seed: of numpy's PCG64; the same seed gives the same samples.
    """
    samples = _SAMPLES if size is None else size
    generator = np.random.default_rng(seed)
    normal = {i.name: _normal(i, example, samples, generator) for i in inputs}
    yield Probe(label="random", batch=normal, made_up=True, usual=example is None)
    yield _scaled("random, hundredfold", normal, _HUNDREDFOLD)
    yield _scaled("zeros", normal, 0.0)
    if size is None:
        single = {name: array[:1] for name, array in normal.items()}
        yield Probe(label="a single random sample", batch=single, made_up=True, usual=False)
    if example is not None:
        few = {name: array[:samples] for name, array in example.items()}
        yield _scaled("given samples, hundredfold", few, _HUNDREDFOLD)


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


def _scaled(label: str, batch: Batch, factor: float) -> Probe:
    """Multiply every floating input; the others have a meaning that a factor would destroy."""
    scaled = {
        name: _times(array, factor) if array.dtype.kind not in "biuOSU" else array
        for name, array in batch.items()
    }
    return Probe(label=label, batch=scaled, made_up=True, usual=False)


def _times(array: Array, factor: float) -> Array:
    """Multiply in float64; what the element type cannot hold becomes its largest number."""
    largest = float(ml_dtypes.finfo(array.dtype).max)  # type: ignore[no-untyped-call]  # untyped package
    return np.clip(array.astype(np.float64) * factor, -largest, largest).astype(array.dtype)
