"""Reading .npz files, without a worker process."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import BnOpsError
from service.errors import BatchMalformedError, BatchUnpackedTooLargeError, ServiceError
from service.formats.npy import read_npz
from service.workers.child.read_batches import BatchReader
from service.workers.child.validate import count
from tests.support import hostile_archives as hostile
from tests.support.service_http import npy

LIMIT = 64 << 20
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(
    content: bytes, *inputs: str
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return read_npz(io.BytesIO(content), inputs or ("x",), limit_bytes=LIMIT)


@pytest.mark.parametrize("packed", [False, True])
def test_named_arrays(*, packed: bool) -> None:
    mask = np.array([[1, 0], [0, 1]], dtype=np.int64)
    found = read(hostile.npz(packed=packed, x=X, mask=mask), "x", "mask")
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["mask"], mask)


def test_unnamed_arrays_are_assigned_in_order() -> None:
    found = read(hostile.npz(arr_0=X, arr_1=X + 1), "left", "right")
    np.testing.assert_array_equal(found["right"], X + 1)
    assert list(found) == ["left", "right"]


@pytest.mark.parametrize("array", [np.asfortranarray(X), X.astype(">f4"), X[::-1]])
def test_memory_and_byte_order(
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    found = read(hostile.npz(x=array))["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32
    assert found.dtype.isnative
    assert found.flags.c_contiguous


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", npy(X))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy(X + 1))
    return buffer.getvalue()


def _other_method() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(X))
    return buffer.getvalue()


def _damaged() -> bytes:
    content = bytearray(hostile.npz(x=X))
    content[content.find(X.tobytes()) + 5] ^= 0xFF
    return bytes(content)


MALFORMED = {
    "empty": b"",
    "not a zip": b"PK\x03\x04" + bytes(100),
    "truncated": hostile.npz(x=X)[:-30],
    "npy": npy(X),
    "wrong checksum": _damaged(),
    "pickle": hostile.zipped({"x.npy": _pickled()}),
    "pickle without a header": hostile.zipped({"x.npy": pickle.dumps([1, 2, 3])}),
    "duplicate name": _twice(),
    "symlink": hostile.zip_link("x.npy", "/etc/passwd"),
    "encrypted": hostile.with_flag(hostile.npz(x=X), 1),
    "unsupported compression": _other_method(),
    "parent folder in a name": hostile.zipped({"../x.npy": npy(X)}),
    "absolute name": hostile.zipped({"/x.npy": npy(X)}),
    "drive letter": hostile.zipped({"c:x.npy": npy(X)}),
    "backslash": hostile.zipped({"a\\x.npy": npy(X)}),
    "nested archive": hostile.zipped({"x.npz": hostile.npz(x=X)}),
    "other file": hostile.zipped({"x.npy": npy(X), "readme.txt": b"hello"}),
    "data too short": hostile.zipped({"x.npy": npy(X)[:-4]}),
    "data too long": hostile.zipped({"x.npy": npy(X) + b"more"}),
    "header of a terabyte": hostile.zipped(
        {"x.npy": npy(X).replace(b"(2, 3), }" + b" " * 12, b"(2, 3000000000000), }")}
    ),
    "wrong member size": hostile.with_size(hostile.npz(x=X), 1 << 19),
    "overlapping members": hostile.overlapping(npy(X), 50),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_invalid_npz_is_rejected(name: str) -> None:
    with pytest.raises(BatchMalformedError):
        read(MALFORMED[name])


def test_error_names_the_member() -> None:
    with pytest.raises(BatchMalformedError, match="pickle") as caught:
        read(MALFORMED["pickle"])
    assert caught.value.details["member"] == "'x.npy'"


def test_zip_bomb_is_rejected() -> None:
    bomb = hostile.npz(packed=True, x=np.zeros((1, 3 * 1024 * 1024), np.float32))
    assert len(bomb) < 20_000
    with pytest.raises(BatchUnpackedTooLargeError, match="200 times"):
        read(bomb)


def test_total_size_is_limited() -> None:
    content = hostile.npz(x=X, y=X)
    with pytest.raises(BatchUnpackedTooLargeError, match="300 bytes"):
        read_npz(io.BytesIO(content), ["x", "y"], limit_bytes=300)


def test_small_arrays_may_compress_well() -> None:
    zeros = np.zeros((1, 100_000), np.float32)
    np.testing.assert_array_equal(read(hostile.npz(packed=True, x=zeros))["x"], zeros)


@given(st.binary(max_size=40), st.integers(0, 300))
def test_random_damage(noise: bytes, place: int) -> None:
    content = bytearray(hostile.npz(x=X))
    content[place : place + len(noise)] = noise
    reader = BatchReader(
        inputs=(TensorInfo(name="x", dtype="float32", shape=(None, 3)),), limit_bytes=LIMIT
    )
    # Any other exception fails the test.
    with contextlib.suppress(ServiceError, BnOpsError):
        assert count(io.BytesIO(bytes(content)), "npz", reader, batch=0) == 2
