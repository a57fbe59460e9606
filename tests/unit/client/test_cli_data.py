"""Data files: opened without being read, cut the same way however they are stored."""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnrecal_client import InputError
from bnrecal_client.cli.data.array_batches import DataSet, open_data
from bnrecal_client.cli.data.array_files import open_table

X = np.arange(70, dtype=np.float32).reshape(10, 7)

WRITERS: dict[str, Callable[[Path], Path]] = {
    "npy": lambda folder: _npy(folder / "x.npy", X),
    "npy-fortran": lambda folder: _npy(folder / "x.npy", np.asfortranarray(X)),
    "npz": lambda folder: _npz(folder / "x.npz", np.savez),
    "npz-fortran": lambda folder: _npz(folder / "x.npz", np.savez, np.asfortranarray(X)),
    "npz-compressed": lambda folder: _npz(folder / "x.npz", np.savez_compressed),
    "safetensors": lambda folder: _safetensors(folder / "x.safetensors"),
}


def _npy(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def _npz(path: Path, save: Callable[..., None], array: NDArray[Any] = X) -> Path:
    save(path, array)
    return path


def _safetensors(path: Path) -> Path:
    safetensors.numpy.save_file({"x": X}, path)
    return path


def arrays(batch: object) -> NDArray[Any]:
    if isinstance(batch, dict):
        (batch,) = batch.values()
    if isinstance(batch, tuple):
        (batch,) = batch
    return np.asarray(batch)


def cut(path: Path, size: int, limit: int | None = None) -> list[NDArray[Any]]:
    return [arrays(batch) for batch in open_data([path], batch_size=size, limit=limit)]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_same_batches(kind: str, tmp_path: Path) -> None:
    batches = cut(WRITERS[kind](tmp_path), 4)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), X)
    assert all(batch.dtype == np.float32 for batch in batches)


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"npz-compressed"}))
def test_uncompressed_file_is_memory_mapped(kind: str, tmp_path: Path) -> None:
    array: Any = arrays(open_table(WRITERS[kind](tmp_path)).read())
    while array.base is not None and not isinstance(array.base, mmap.mmap):
        array = array.base
    assert isinstance(array.base, mmap.mmap)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    size=st.integers(1, 12),
    limit=st.none() | st.integers(1, 50),
)
def test_files_are_one_stream_of_full_batches(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], size: int, limit: int | None
) -> None:
    folder = tmp_path_factory.mktemp("data")
    whole = np.arange(sum(lengths) * 2, dtype=np.float32).reshape(-1, 2)
    for number, part in enumerate(np.split(whole, np.cumsum(lengths)[:-1])):
        np.save(folder / f"{number:03}.npy", part)
    data = open_data([folder], batch_size=size, limit=limit)
    batches = [arrays(batch) for batch in data]
    expected = whole[:limit]
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert (len(data), data.samples) == (len(batches), len(expected))


def test_change_of_shape_starts_new_batch(tmp_path: Path) -> None:
    parts: list[NDArray[Any]] = [np.ones((3, 2)), np.ones((3, 4)), np.ones((3, 4), np.float32)]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
    batches = cut(tmp_path, 100)
    assert [(b.shape, b.dtype) for b in batches] == [(p.shape, p.dtype) for p in parts]


def test_named_and_unnamed_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=X, right=X + 1)
    np.savez(tmp_path / "b.npz", X, X + 1)
    named, unnamed = open_data([tmp_path], batch_size=10, limit=None)
    assert isinstance(named, dict)
    assert isinstance(unnamed, tuple)
    np.testing.assert_array_equal(named["right"], unnamed[1])


def test_bfloat16_is_read_from_safetensors(tmp_path: Path) -> None:
    values = np.array([[1.5], [-2.0]], dtype=ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"x": values}, tmp_path / "x.safetensors")
    (batch,) = cut(tmp_path / "x.safetensors", 10)
    assert batch.dtype == ml_dtypes.bfloat16
    assert batch.astype(float).ravel().tolist() == [1.5, -2.0]


def test_files_of_folders_are_sorted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(["a.npy", "sub/c.npy", "z.npy"]):
        np.save(tmp_path / name, np.full((1, 1), number))
    (tmp_path / "notes.txt").write_text("not data")
    assert [float(batch[0, 0]) for batch in cut(tmp_path, 1)] == [0, 1, 2]


def _object_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def _zip_without_arrays() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


def _pickled_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", b"", "cannot be read"),
        ("x.npy", b"text that is no array", "cannot be read"),
        ("x.npy", _pickled_npy(), "cannot be read"),
        ("x.npz", b"PK no zip", "cannot be read"),
        ("x.npz", _zip_without_arrays(), "has no array"),
        ("x.npz", _object_npz(), "not unpickled"),
        ("x.safetensors", b"\xff" * 16, "longer than the file"),
        ("x.safetensors", b"\x02\0\0\0\0\0\0\0{}", "has no tensor"),
        (
            "x.safetensors",
            (b'\x3a\0\0\0\0\0\0\0{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}    '),
            "inconsistent",
        ),
        ("x.csv", b"1,2", "is not a .npy, .npz or .safetensors file"),
    ],
)
def test_error_names_an_unreadable_file(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_data([path], batch_size=1, limit=None)
    assert name in str(caught.value)


def test_arrays_of_different_lengths_are_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((2, 1)), b=np.ones((3, 1)))
    with pytest.raises(InputError, match="same first axis"):
        open_data([tmp_path], batch_size=1, limit=None)


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_array_without_samples_is_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(InputError, match=r"x\.npy"):
        open_data([tmp_path], batch_size=1, limit=None)


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data file"):
        open_data([tmp_path / "none.npy"], batch_size=1, limit=None)
    with pytest.raises(InputError, match=r"no \.npy"):
        open_data([tmp_path], batch_size=1, limit=None)


def test_second_iteration_gives_same_batches(tmp_path: Path) -> None:
    data = open_data([WRITERS["npz"](tmp_path)], batch_size=3, limit=8)
    assert isinstance(data, DataSet)
    first, second = (np.concatenate([arrays(b) for b in data]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, X[:8])
