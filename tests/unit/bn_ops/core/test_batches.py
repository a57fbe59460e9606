"""Accepted and rejected batches, and the error messages."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bn_ops.core.batches import named_batches
from bn_ops.core.signature import TensorInfo
from bn_ops.errors import (
    BatchDtypeError,
    BatchError,
    BatchInputError,
    BatchNotFiniteError,
    BatchShapeError,
    InputError,
    OptionError,
)

IMAGE = TensorInfo(name="image", dtype="float32", shape=("N", 3, "H", None))
SCALE = TensorInfo(name="scale", dtype="int64", shape=(None,))


def good(samples: int = 2) -> np.ndarray:
    return np.zeros((samples, 3, 4, 5), dtype=np.float32)


def read(items: Any, *inputs: TensorInfo, **options: Any) -> list[Any]:
    return list(named_batches(items, inputs or (IMAGE,), **options))


def test_arrays_dicts_and_tuples() -> None:
    for item in (good(), {"image": good()}, (good(),), [good()]):
        (batch,) = read([item])
        assert list(batch) == ["image"]
        np.testing.assert_array_equal(batch["image"], good())


def test_tuples_follow_input_order() -> None:
    (batch,) = read([(good(), np.array([1, 2]))], IMAGE, SCALE)
    assert batch["scale"].tolist() == [1, 2]


def test_select() -> None:
    (batch,) = read([(good(), "label")], select=lambda item: item[0])
    assert batch["image"].shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    "labels", [np.array([1, 2]), np.zeros(2), [1, 2], ["a", "b"], np.zeros((2, 4), np.int64)]
)
def test_labels_are_left_out(labels: Any) -> None:
    for item in ((good(), labels), {"image": good(), "labels": labels}):
        (batch,) = read([item])
        assert list(batch) == ["image"]
        np.testing.assert_array_equal(batch["image"], good())


def test_second_array_of_numbers_is_not_a_label() -> None:
    with pytest.raises(BatchInputError, match="select=") as caught:
        read([good(), (good(), np.zeros((2, 4)))])
    assert caught.value.details() == {"batch": 1}


@pytest.mark.parametrize("items", [good(), {"image": good()}, "file.npy", b"..."])
def test_batch_instead_of_stream(items: Any) -> None:
    with pytest.raises(OptionError, match="wrap it in a list"):
        read(items)


def test_objects_that_numpy_cannot_convert() -> None:
    class Odd:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("broken")

    with pytest.raises(InputError, match="Odd"):
        read([Odd()])


@pytest.mark.parametrize(
    ("batch", "error", "says"),
    [
        ({"picture": good()}, BatchInputError, "'picture' is not an input of the model"),
        ({}, BatchInputError, "'image' is missing"),
        (good().astype(np.float64), BatchDtypeError, r"is float64.*astype\('float32'\)"),
        (good().astype(np.uint8), BatchDtypeError, "is uint8"),
        (good()[0], BatchShapeError, r"rank 3; got shape \[3, 4, 5\].*\[N, 3, H, \?\]"),
        (good()[:, :1], BatchShapeError, "size 1 on axis 1"),
        (good(0), BatchShapeError, "no sample"),
        (good()[:, :, :0], BatchShapeError, "no sample"),
    ],
)
def test_mismatch_messages(batch: Any, error: type[BatchError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        read([good(), batch])
    assert caught.value.batch == 1
    assert caught.value.input in {"image", "picture"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_nonfinite_values(bad: float, dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    array = good().astype(kind)
    array[1, 2, 3, 4] = bad
    info = TensorInfo(name="image", dtype=dtype, shape=None)
    with pytest.raises(BatchNotFiniteError, match="batch 0, input 'image'") as caught:
        read([array], info)
    assert caught.value.details() == {"batch": 0, "input": "image"}


def test_different_sample_counts() -> None:
    with pytest.raises(BatchShapeError, match="3 samples, other inputs have 2"):
        read([(good(), np.array([1, 2, 3]))], IMAGE, SCALE)


def test_stream_is_read_once_and_lazily() -> None:
    pulled = []

    def stream() -> Any:
        for number in range(3):
            pulled.append(number)
            yield good()

    batches = named_batches(stream(), (IMAGE,))
    next(batches)
    assert pulled == [0]


def test_fixed_first_axis_is_accepted() -> None:
    info = TensorInfo(name="image", dtype="float32", shape=(1, 3, 4, 5))
    (batch,) = read([good(7)], info)
    assert batch["image"].shape[0] == 7
