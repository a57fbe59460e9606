"""Reading Arrow streams in a worker."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import BnOpsError
from service.errors import BatchMalformedError, BatchUnpackedTooLargeError, ServiceError
from service.formats.arrow import read_arrow
from service.workers.child.read_batches import BatchReader
from service.workers.child.validate import count

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)


def stream(*batches: Any, options: Any = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def table(**columns: Any) -> Any:
    return pa.record_batch(list(columns.values()), names=list(columns))


def nested(array: np.ndarray[Any, Any]) -> Any:
    values = pa.array(array.reshape(-1))
    for size in array.shape[:0:-1]:
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def read(content: bytes, limit_bytes: int = 1 << 20) -> list[dict[str, np.ndarray[Any, Any]]]:
    return list(read_arrow(io.BytesIO(content), limit_bytes=limit_bytes))


@pytest.mark.parametrize(
    "column", [pa.FixedShapeTensorArray.from_numpy_ndarray(X), nested(X)], ids=["tensor", "list"]
)
def test_columns_of_arrays(column: Any) -> None:
    (found,) = read(stream(table(x=column)))
    np.testing.assert_array_equal(found["x"], X)
    assert found["x"].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "int16", "bool"])
def test_columns_of_numbers(dtype: str) -> None:
    values = np.array([0, 1, 1, 0], dtype)
    (found,) = read(stream(table(x=pa.array(values))))
    np.testing.assert_array_equal(found["x"], values)
    assert found["x"].dtype == values.dtype


def test_empty_record_batches_are_skipped() -> None:
    parts = [table(x=nested(X[start:stop])) for start, stop in ((0, 3), (3, 3), (3, 4))]
    found = read(stream(*parts))
    assert [arrays["x"].shape for arrays in found] == [(3, 2, 3), (1, 2, 3)]
    np.testing.assert_array_equal(np.concatenate([arrays["x"] for arrays in found]), X)


def test_decompressed_size_is_limited() -> None:
    zeros = table(x=nested(np.zeros((4, 100_000), np.float32)))
    packed = stream(zeros, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    assert len(packed) < 5_000
    assert read(packed, 2_000_000)[0]["x"].shape == (4, 100_000)
    with pytest.raises(BatchUnpackedTooLargeError):
        read(packed, 1_000_000)


def _file() -> bytes:
    sink = io.BytesIO()
    batch = table(x=nested(X))
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _permuted() -> bytes:
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 6)
    return stream(table(x=pa.ExtensionArray.from_storage(kind, storage)))


MALFORMED = {
    "empty": b"",
    "end marker only": b"\xff\xff\xff\xff\0\0\0\0",
    "garbage": b"garbage" * 20 + b"\xff\xff\xff\xff\0\0\0\0",
    "truncated": stream(table(x=nested(X)))[:-8],
    "Arrow file": _file(),
    "text": stream(table(x=pa.array(["a", "b"]))),
    "lists of varying length": stream(table(x=pa.array([[1.0], [1.0, 2.0]]))),
    "dictionary": stream(table(x=pa.array([1.0, 2.0]).dictionary_encode())),
    "timestamps": stream(table(x=pa.array([1, 2], pa.timestamp("s")))),
    "nulls": stream(table(x=pa.array([1.0, None]))),
    "nulls in lists": stream(table(x=pa.FixedSizeListArray.from_arrays(pa.array([1.0, None]), 2))),
    "null row": stream(table(x=pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)))),
    "permuted tensor": _permuted(),
    "duplicate column": stream(pa.record_batch([pa.array([1.0])] * 2, names=["x", "x"])),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_invalid_stream_is_rejected(what: str) -> None:
    with pytest.raises(BatchMalformedError):
        read(MALFORMED[what])


GOOD = stream(table(x=nested(X)))


@given(st.binary(min_size=1, max_size=12), st.integers(0, len(GOOD)))
def test_random_damage(noise: bytes, place: int) -> None:
    changed = bytearray(GOOD)
    changed[place : place + len(noise)] = noise
    info = TensorInfo(name="x", dtype="float32", shape=("N", 2, 3))
    reader = BatchReader(inputs=(info,), limit_bytes=1 << 20)
    # Any other exception fails the test.
    with contextlib.suppress(ServiceError, BnOpsError, MemoryError):
        assert 0 < count(io.BytesIO(bytes(changed)), "arrow", reader, batch=0) <= 4
