"""Samples on which both models are run: the caller's own and synthetic ones."""

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

__all__ = ["Probe", "synthetic_probes"]

Array = NDArray[np.generic]

_SAMPLES = 2
"""Samples per synthetic batch: enough to exercise the batch axis, cheap for any model."""

_FREE_SIZE = 64
"""Size of a free axis without an example batch: networks divide images by 32, and some pool the
rest."""

_LARGE_SCALE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A batch to run.

    Attributes:
        label: name of the samples.
        batch: the inputs.
        synthetic: whether the batch is not the caller's; a model may reject such a batch.
        given: whether the samples are the caller's, unchanged, in this or another batch.
        usual: whether this batch shows the usual scale of the outputs.
        exact: whether to also run it in float64, where possible.
    """

    label: str
    batch: Batch
    synthetic: bool = True
    given: bool = False
    usual: bool = False
    exact: bool = False


def synthetic_probes(
    inputs: Sequence[TensorInfo],
    example: Batch | None,
    *,
    size: int | None,
    seed: int,
    affordable: Callable[[Batch], int] = lambda _: 1,
) -> Iterator[Probe]:
    """Yield random and extreme batches for a signature.

    Args:
        inputs: the model's inputs.
        example: a batch of the caller's, which gives the sizes of free axes and the range of
            integers.
        size: the number of samples that the model requires per run; None for any.
        seed: seed of numpy's PCG64; the same seed gives the same samples.
        affordable: returns how many samples of a batch may run in float64.
    """
    samples = _SAMPLES if size is None else size
    one = 1 if size is None else size
    generator = np.random.default_rng(seed)
    normal = {i.name: _normal(i, example, samples, generator) for i in inputs}
    yield Probe(label="random samples", batch=normal, usual=example is None)
    single = _first(normal, one)
    yield Probe(label="zeros", batch=_times(single, 0.0))
    if example is None:
        yield Probe(label="one random sample", batch=single, exact=True)
        yield Probe(label="one random sample, scaled by 100", batch=_times(single, _LARGE_SCALE))
        return
    given = _times(_first(example, one), _LARGE_SCALE)
    yield Probe(label="given samples, scaled by 100", batch=given)
    # A few: float64 costs a hundred times onnxruntime's float32.
    count = affordable(example)
    few = _first(example, count if size is None else size)
    yield Probe(label="given samples, a few", batch=few, given=True, usual=True, exact=True)
    if count > 1:
        yield Probe(label="one random sample", batch=single, exact=True)


def _normal(
    info: TensorInfo, example: Batch | None, samples: int, generator: np.random.Generator
) -> Array:
    """Draw standard normal numbers; integers and booleans from the range of the example."""
    given = None if example is None else example[info.name]
    shape = _shape(info, given, samples)
    dtype = _dtype(info.dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, size=shape).astype(np.bool_)
    if dtype.kind in "iu":
        low, high = (0, 1) if given is None or not given.size else (given.min(), given.max())
        # Any other index may be out of range for an embedding.
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
    """Multiply every floating input, clipped to the range of its type; leave the others."""
    return {name: _scaled(array, factor) for name, array in batch.items()}


def _scaled(array: Array, factor: float) -> Array:
    if not is_floating(array.dtype):
        return array
    largest = float(ml_dtypes.finfo(array.dtype).max)  # type: ignore[no-untyped-call]  # untyped package
    return np.clip(array.astype(np.float64) * factor, -largest, largest).astype(array.dtype)
