"""What a model takes in, and whether a batch fits it.

Pure and light (numpy only), so that a server can check a batch's header without loading a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import (
    BatchDtypeError,
    BatchError,
    BatchInputError,
    BatchNotFiniteError,
    BatchShapeError,
)

__all__ = ["ArrayHeader", "Batch", "TensorInfo", "check_batch", "check_headers", "is_floating"]

Batch = Mapping[str, NDArray[np.generic]]
"""Named input arrays; the first axis of each counts the samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One named input or output of a model.

    Attributes:
        name: the name in the graph.
        dtype: numpy's name of the element type (`float32`, `float16`, `bfloat16`, `int64`, …).
        shape: one entry per axis: an int where the model demands that size, a string where the
            model names a free size, None where it is free and unnamed. None instead of a tuple:
            rank unknown. The first axis counts samples.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayHeader:
    """Element type and shape of an array, without its data."""

    dtype: str
    shape: tuple[int, ...]


def check_headers(
    inputs: Sequence[TensorInfo],
    headers: Mapping[str, ArrayHeader],
    *,
    batch: int | None = None,
) -> int:
    """Check the headers of one batch against the model's inputs.

    Returns:
        The number of samples in the batch.

    Raises:
        BatchInputError: an input is missing, or a name is unknown.
        BatchDtypeError: another element type than the model's.
        BatchShapeError: another rank or size, no sample, or inputs of different sample counts.
    """
    _check_names(inputs, headers, batch)
    samples: int | None = None
    for info in inputs:
        found = headers[info.name]
        _check_dtype(info, found, batch)
        count = _check_shape(info, found, batch)
        if samples is not None and count != samples:
            raise BatchShapeError(
                f"{_where(batch, info.name)} has {count} samples, other inputs have {samples}",
                batch=batch,
                input_name=info.name,
            )
        samples = count
    if samples is None:
        raise BatchError("the model has no input", batch=batch)
    return samples


def check_batch(inputs: Sequence[TensorInfo], arrays: Batch, *, batch: int | None = None) -> int:
    """Check one batch's headers and that every floating value in it is finite.

    Returns:
        The number of samples in the batch.

    Raises:
        BatchNotFiniteError: NaN or Inf in an input; nothing has been counted.
        BatchError: as `check_headers`.
    """
    headers = {
        name: ArrayHeader(dtype=str(array.dtype), shape=array.shape)
        for name, array in arrays.items()
    }
    samples = check_headers(inputs, headers, batch=batch)
    for name, array in arrays.items():
        if not all_finite(array):
            raise not_finite(name, batch=batch)
    return samples


def is_floating(dtype: np.dtype[np.generic]) -> bool:
    """Tell whether an element type is a floating one, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def all_finite(array: NDArray[np.generic]) -> bool:
    """Tell whether no value is NaN or Inf; integers and booleans always are finite."""
    if array.dtype.kind in "iub":
        return True
    return bool(np.isfinite(array).all())


def not_finite(name: str, *, batch: int | None) -> BatchNotFiniteError:
    """Build the error for an input that holds NaN or Inf."""
    return BatchNotFiniteError(
        f"{_where(batch, name)} holds NaN or Inf; no batch with such values is counted: "
        "leave the sample out or repair it",
        batch=batch,
        input_name=name,
    )


def _where(batch: int | None, name: str) -> str:
    return f"input {name!r}" if batch is None else f"batch {batch}, input {name!r}"


def _check_names(
    inputs: Sequence[TensorInfo], headers: Mapping[str, ArrayHeader], batch: int | None
) -> None:
    wanted = [info.name for info in inputs]
    unknown = sorted(set(headers) - set(wanted))
    if unknown:
        raise BatchInputError(
            f"{_where(batch, unknown[0])} is not an input of the model, which takes {wanted}",
            batch=batch,
            input_name=unknown[0],
        )
    missing = [name for name in wanted if name not in headers]
    if missing:
        raise BatchInputError(
            f"{_where(batch, missing[0])} is missing; the model takes {wanted}",
            batch=batch,
            input_name=missing[0],
        )


def _check_dtype(info: TensorInfo, found: ArrayHeader, batch: int | None) -> None:
    if found.dtype != info.dtype:
        raise BatchDtypeError(
            f"{_where(batch, info.name)} is {found.dtype}, the model takes {info.dtype}: "
            f"convert it first (array.astype({info.dtype!r}))",
            batch=batch,
            input_name=info.name,
        )


def _check_shape(info: TensorInfo, found: ArrayHeader, batch: int | None) -> int:
    """Check rank and every fixed size but the first; return the number of samples."""
    if info.shape is not None and len(found.shape) != len(info.shape):
        raise _shape_error(info, found, batch, f"has rank {len(found.shape)}")
    if not found.shape or 0 in found.shape:
        raise _shape_error(info, found, batch, f"has no sample (shape {list(found.shape)})")
    for axis, (want, got) in enumerate(zip(info.shape or (), found.shape, strict=False)):
        # The first axis counts samples: a fixed size there is the engine's affair, not the
        # caller's.
        if axis > 0 and isinstance(want, int) and want != got:
            raise _shape_error(info, found, batch, f"has size {got} on axis {axis}")
    return found.shape[0]


def _shape_error(
    info: TensorInfo, found: ArrayHeader, batch: int | None, fault: str
) -> BatchShapeError:
    want = "any shape" if info.shape is None else describe_shape(info.shape)
    return BatchShapeError(
        f"{_where(batch, info.name)} {fault}; "
        f"got shape {list(found.shape)}, the model takes {want}",
        batch=batch,
        input_name=info.name,
    )


def describe_shape(shape: Sequence[int | str | None]) -> str:
    """Write a shape for a person: free axes by name, the first as N."""
    sizes = ["N", *("?" if size is None else str(size) for size in shape[1:])]
    return f"[{', '.join(sizes)}]"
