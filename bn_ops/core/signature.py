"""The inputs of a model, and checks of a batch against them.

It depends on numpy only, so that a server can check a batch's header without loading a runtime.
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
"""Input arrays by name; the first axis of each counts samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One named input or output of a model.

    Attributes:
        name: the name in the graph.
        dtype: numpy name of the element type (`float32`, `float16`, `bfloat16`, `int64`, …).
        shape: one entry per axis: an int for a fixed size, a string for a named free size, None for
            an unnamed free size. None instead of a tuple if the rank is unknown. The first axis
            counts samples.
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
        BatchDtypeError: an element type differs from the model's.
        BatchShapeError: a rank or size differs from the model's, there are no samples, or inputs
            have different numbers of samples.
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
    """Check one batch's headers, and that every floating-point value in it is finite.

    Returns:
        The number of samples in the batch.

    Raises:
        BatchNotFiniteError: NaN or Inf in an input.
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
    """Return whether an element type is floating-point, including bfloat16."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def all_finite(array: NDArray[np.generic]) -> bool:
    """Return whether no value is NaN or Inf; integers and booleans are always finite."""
    if array.dtype.kind in "iub":
        return True
    return bool(np.isfinite(array).all())


def not_finite(name: str, *, batch: int | None) -> BatchNotFiniteError:
    """Return the error for an input that holds NaN or Inf."""
    return BatchNotFiniteError(
        f"{_where(batch, name)} holds NaN or Inf; remove or repair the sample",
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
    """Check the rank and all fixed sizes except the first; return the number of samples."""
    if info.shape is not None and len(found.shape) != len(info.shape):
        raise _shape_error(info, found, batch, f"has rank {len(found.shape)}")
    if not found.shape or 0 in found.shape:
        raise _shape_error(info, found, batch, f"has no samples (shape {list(found.shape)})")
    for axis, (want, got) in enumerate(zip(info.shape or (), found.shape, strict=False)):
        # The first axis counts samples; engines rebatch for a fixed size there.
        if axis > 0 and isinstance(want, int) and want != got:
            raise _shape_error(info, found, batch, f"has size {got} on axis {axis}")
    return found.shape[0]


def _shape_error(
    info: TensorInfo, found: ArrayHeader, batch: int | None, fault: str
) -> BatchShapeError:
    want = "any shape" if info.shape is None else describe_shape(info.shape)
    return BatchShapeError(
        f"{_where(batch, info.name)} {fault}; "
        f"got shape {list(found.shape)}, the model takes {want}{_advice(info, found)}",
        batch=batch,
        input_name=info.name,
    )


# Channels last to first, and first to last.
_REORDERINGS = ((0, 3, 1, 2), (0, 2, 3, 1))


def _advice(info: TensorInfo, found: ArrayHeader) -> str:
    """Return what to change in an array whose axes only have another order or lack the first."""
    if info.shape is None:
        return ""
    if _fits(info.shape[1:], found.shape):
        return ": add the axis that counts samples (array[None])"
    if len(found.shape) == len(info.shape) == len(_REORDERINGS[0]):
        for order in _REORDERINGS:
            if _fits(info.shape[1:], tuple(found.shape[axis] for axis in order[1:])):
                return f": reorder its axes (array.transpose{order})"
    return ""


def _fits(wanted: Sequence[int | str | None], sizes: Sequence[int]) -> bool:
    return len(wanted) == len(sizes) and all(
        not isinstance(want, int) or want == size for want, size in zip(wanted, sizes, strict=True)
    )


def describe_shape(shape: Sequence[int | str | None]) -> str:
    """Format a shape for a message: free axes by name, the first as N."""
    sizes = ["N", *("?" if size is None else str(size) for size in shape[1:])]
    return f"[{', '.join(sizes)}]"
