"""Encoding of batches: the decoded arrays equal the encoded ones."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bnrecal_client import BatchError
from bnrecal_client._encoding.batches import encode, named_arrays


def decoded(batch: object, inputs: tuple[str, ...] = ("x",)) -> dict[str, NDArray[Any]]:
    return safetensors.numpy.load(encode(batch, inputs, index=0).body)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=4),
    )
)
def test_array_round_trip(array: NDArray[Any]) -> None:
    found = decoded(array)["x"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        np.arange(24, dtype=np.float32).reshape(4, 6).T,
        np.arange(24, dtype=np.float32).reshape(4, 6)[::-1],
        np.broadcast_to(np.float32(3.0), (4, 6)),
        np.arange(24, dtype=">f4").reshape(4, 6),
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(4, 6)),
    ],
    ids=["strided", "transposed", "reversed", "broadcast", "big-endian", "fortran"],
)
def test_array_of_any_layout_arrives_in_order(array: NDArray[Any]) -> None:
    # safetensors.numpy.save alone gets the first four wrong, without a word.
    np.testing.assert_array_equal(decoded(array)["x"], array)


def test_order_of_names_is_irrelevant() -> None:
    a, b = np.ones((2, 3), np.float32), np.zeros((2, 1), np.float32)
    first = encode({"a": a, "b": b}, ("a", "b"), index=0)
    assert encode({"b": b, "a": a}, ("a", "b"), index=5) == first
    assert encode((a, b), ("a", "b"), index=0) == first


def test_torch_tensor_with_grad_and_strides() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(0, 2, 1).requires_grad_()
    found = decoded(tensor)["x"]
    np.testing.assert_array_equal(found, tensor.detach().numpy())


def test_bfloat16_tensor_keeps_its_bits() -> None:
    torch = pytest.importorskip("torch")
    body = encode(torch.tensor([[1.5], [-2.0]], dtype=torch.bfloat16), ("x",), index=0).body
    (length,) = struct.unpack("<Q", body[:8])
    assert json.loads(body[8 : 8 + length])["x"]["dtype"] == "BF16"
    # bfloat16 is the upper half of float32: 1.5 = 0x3FC0, -2 = 0xC000.
    assert np.frombuffer(body[8 + length :], "<u2").tolist() == [0x3FC0, 0xC000]


@pytest.mark.parametrize(
    ("batch", "code", "says"),
    [
        ({"y": np.ones((2, 3))}, "batch-input", "'y' is not an input"),
        ({}, "batch-input", "'x' is missing"),
        (["text"], "batch-dtype", "array of <U4"),
        (object(), "batch-dtype", "array of object"),
        (np.float32(1), "batch-shape", "0 axes"),
        ([[1.0], [2.0]], "batch-input", "a list of 2"),
        (np.ones((2, 3), np.complex128), "batch-dtype", "cannot be encoded"),
    ],
)
def test_error_names_an_invalid_batch(batch: object, code: str, says: str) -> None:
    with pytest.raises(BatchError, match=says) as caught:
        encode(batch, ("x",), index=12)
    assert "batch 12" in str(caught.value)
    assert (caught.value.code, caught.value.batch) == (code, 12)


def test_single_array_gets_the_input_name() -> None:
    assert list(named_arrays(np.ones((1, 2)), ("pixels",), index=0)) == ["pixels"]
