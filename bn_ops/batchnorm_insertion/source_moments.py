"""Moments of tensors of a graph over the source samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, measure, merge
from bn_ops.core.options import Progress
from bn_ops.core.signature import Batch
from bn_ops.engines.onnx.rebatch import PaddedBatch, fixed_batch_size, rebatch
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import EngineError
from bn_ops.onnx_files.session import session

if TYPE_CHECKING:
    import onnx

__all__ = ["TensorMoments", "measure_tensors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMoments:
    """What was measured of one tensor.

    Attributes:
        moments: per channel; None where the tensor has fewer than two axes or no float values.
        rank: number of axes.
        dtype: numpy's name of the element type.
    """

    moments: Moments | None
    rank: int
    dtype: str


def measure_tensors(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Batch],
    *,
    threads: int | None,
    progress: Callable[[Progress], None],
) -> dict[str, TensorMoments]:
    """Run the model on every sample and measure tensors inside it.

    Each sample runs alone, so that the tensors of one sample are all that is held at a time; a
    model that fixes the number of samples gets exactly this number.


    Raises:
        EngineError: onnxruntime refused or failed.
    """
    outputs = {value.name for value in model.graph.output}
    inner = session(
        model, threads=threads, more_outputs=[name for name in tensors if name not in outputs]
    )
    size = fixed_batch_size(model_inputs(model))
    found: dict[str, TensorMoments] = {}
    for number, batch in enumerate(batches):
        for group in _groups(batch, size):
            for name, array in zip(tensors, inner.run(tensors, group.arrays), strict=True):
                real = array[: group.samples] if group.padded else array
                found[name] = _added(found.get(name), real)
        progress(Progress(phase="inserting", done=number + 1, total=None))
    return found


def _groups(batch: Batch, size: int | None) -> Iterator[PaddedBatch]:
    if size is not None:
        return rebatch([batch], size)
    samples = next(iter(batch.values())).shape[0]
    singles = ({n: array[i : i + 1] for n, array in batch.items()} for i in range(samples))
    return rebatch(singles, None)


def _added(held: TensorMoments | None, array: NDArray[np.generic]) -> TensorMoments:
    usable = array.ndim > 1 and array.dtype.kind == "f" and array.size > 0
    if not usable or (held is not None and (held.moments is None or held.rank != array.ndim)):
        return TensorMoments(moments=None, rank=array.ndim, dtype=array.dtype.name)
    moments = measure(array)
    if held is not None and held.moments is not None:
        if held.moments.channels != moments.channels:
            raise EngineError("the number of channels of a tensor differs between samples")
        moments = merge(held.moments, moments)
    return TensorMoments(moments=moments, rank=array.ndim, dtype=array.dtype.name)
