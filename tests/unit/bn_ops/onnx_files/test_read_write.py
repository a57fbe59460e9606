"""Models with external data: accepted and rejected locations, and crash safety."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import bn_ops
from bn_ops.errors import ExternalDataError, ModelInvalidError
from bn_ops.onnx_files import read_write as modelfiles
from bn_ops.onnx_files.read_write import read_model, write_model
from bn_ops.onnx_files.session import session
from tests.support.networks import images, residual_network

# Far below the 20 kB of the network, so that its larger tensors become external data.
LIMIT = 4_000


def data_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".onnx")


def with_data(tmp_path: Path, location: str, **entries: str) -> Path:
    """Write a model whose first tensor refers to external data at `location`."""
    model = residual_network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def data() -> bytes:
    return bytes(residual_network().graph.initializer[0].raw_data)


def test_large_model_round_trip(tmp_path: Path) -> None:
    model, path = residual_network(), tmp_path / "model.onnx"
    write_model(model, path, limit=LIMIT)
    (name,) = data_files(tmp_path)
    assert name.startswith("model.onnx.")
    assert name.endswith(".data")
    assert read_model(path) == model
    theirs = onnx.load(path).graph.initializer
    assert [t.raw_data for t in theirs] == [t.raw_data for t in model.graph.initializer]
    named = onnx.load(path, load_external_data=False).graph.initializer
    offsets = [int(e.value) for t in named for e in t.external_data if e.key == "offset"]
    assert len(offsets) > 3
    assert all(offset % 4096 == 0 for offset in offsets)
    x = images(2)
    (found,) = session(path, optimize=False).run(None, {"x": x})
    (wanted,) = session(model, optimize=False).run(None, {"x": x})
    np.testing.assert_array_equal(found, wanted)


_KINDS = [
    name
    for name, _ in onnx.TensorProto.DataType.items()
    if name not in {"UNDEFINED", "STRING", "FLOAT8E8M0"}  # the last cannot represent zero
]


@pytest.mark.parametrize("kind", _KINDS)
def test_external_data_of_every_type(tmp_path: Path, kind: str) -> None:
    number = onnx.TensorProto.DataType.Value(kind)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(number)
    values = np.random.default_rng(0).integers(0, 2, 3001).astype(dtype)
    if kind == "FLOAT":
        values = np.random.default_rng(0).standard_normal(3001).astype(np.float32)
    typed = onnx.helper.make_tensor("w", number, [3001], values.tolist())
    assert not typed.HasField("raw_data")
    raw = onnx.numpy_helper.from_array(values, "w")
    for name, tensor in {"typed": typed, "raw": raw}.items():
        model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
        write_model(model, tmp_path / name, limit=100)
        assert list(tmp_path.glob(f"{name}.*.data"))
        (found,) = read_model(tmp_path / name).graph.initializer
        assert found == raw


def test_small_model_is_one_file(tmp_path: Path) -> None:
    model, path = residual_network(), tmp_path / "model.onnx"
    write_model(model, path)
    assert data_files(tmp_path) == []
    assert onnx.load(path) == model


def test_rewriting_removes_old_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    other = tmp_path / "other.onnx.0123456789abcdef.data"
    other.write_bytes(b"not ours")
    write_model(residual_network(seed=0), path, limit=LIMIT)
    first = set(data_files(tmp_path))
    write_model(residual_network(seed=1), path, limit=LIMIT)
    second = set(data_files(tmp_path))
    assert first & second == {other.name}
    assert len(second) == 2
    write_model(residual_network(seed=2), path)
    assert data_files(tmp_path) == [other.name]
    assert read_model(path) == residual_network(seed=2)


def test_crash_keeps_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    write_model(residual_network(seed=0), path, limit=LIMIT)

    def crash(*_: object) -> None:
        raise OSError("simulated power cut")

    with monkeypatch.context() as patched:
        patched.setattr(modelfiles, "write_atomically", crash)
        with pytest.raises(OSError, match="power"):
            write_model(residual_network(seed=1), path, limit=LIMIT)
    assert read_model(path) == residual_network(seed=0)
    # The next write removes the remaining file.
    write_model(residual_network(seed=2), path, limit=LIMIT)
    assert len(data_files(tmp_path)) == 1


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        write_model(residual_network(), tmp_path / "missing" / "model.onnx", limit=LIMIT)


def test_data_in_subfolder(tmp_path: Path) -> None:
    path = with_data(tmp_path, "weights/w.bin")
    (path.parent / "weights").mkdir()
    (path.parent / "weights" / "w.bin").write_bytes(data())
    assert read_model(path) == residual_network()
    assert len(bn_ops.inspect(path)) == 6


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret.bin", "points outside"),
        ("down/../../secret.bin", "points outside"),
        ("/etc/passwd", "must be relative"),
        ("C:/secret.bin", "must be relative"),
        ("..\\secret.bin", "must be relative"),
        ("", "has no valid name"),
        (".", "has no valid name"),
        ("a\0b", "has no valid name"),
        ("missing.bin", "no such file"),
        ("missing/w.bin", "no such file"),
    ],
)
def test_invalid_locations(tmp_path: Path, location: str, why: str) -> None:
    (tmp_path / "secret.bin").write_bytes(data())
    path = with_data(tmp_path, location)
    for ask in (bn_ops.describe, bn_ops.inspect, lambda p: bn_ops.adapt(p, [images(2)])):
        with pytest.raises(ExternalDataError, match=why):
            ask(path)


def _symbolic(folder: Path, secret: Path) -> None:
    (folder / "w.bin").symlink_to(secret)


def _hard(folder: Path, secret: Path) -> None:
    os.link(secret, folder / "w.bin")


def _fifo(folder: Path, _: Path) -> None:
    os.mkfifo(folder / "w.bin")


def _folder(folder: Path, _: Path) -> None:
    (folder / "w.bin").mkdir()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_symbolic, "a symbolic link"),
        (_hard, "hard link"),
        (_fifo, "not a regular"),
        (_folder, "not a regular"),
    ],
)
def test_data_must_be_regular_files(
    tmp_path: Path, make: Callable[[Path, Path], None], why: str
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(data())
    path = with_data(tmp_path, "w.bin")
    make(path.parent, secret)
    with pytest.raises(ExternalDataError, match=why):
        bn_ops.describe(path)


def test_symlink_in_path(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(data())
    path = with_data(tmp_path, "weights/w.bin")
    (path.parent / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExternalDataError, match="is a link"):
        bn_ops.describe(path)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"offset": "8"}, "expected .* bytes"),
        ({"length": "8"}, "expected .* bytes"),
        ({"offset": "-8", "length": str(len(data()))}, "expected .* bytes"),
        ({"offset": "99999999", "length": str(len(data()))}, "the file ends at"),
        ({"length": "99999999999999"}, "expected .* bytes"),
        ({"offset": "first"}, "description is invalid"),
    ],
)
def test_invalid_offsets_and_lengths(tmp_path: Path, entries: dict[str, str], why: str) -> None:
    path = with_data(tmp_path, "w.bin", **entries)
    (path.parent / "w.bin").write_bytes(data())
    with pytest.raises(ExternalDataError, match=why):
        bn_ops.describe(path)


def test_truncated_data(tmp_path: Path) -> None:
    path = with_data(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(data()[:-4])
    with pytest.raises(ExternalDataError, match=r"expected .* bytes"):
        bn_ops.describe(path)


def test_external_data_without_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_data(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(data())
    monkeypatch.chdir(path.parent)
    content = path.read_bytes()
    model = onnx.load_model_from_string(content)
    with pytest.raises(ExternalDataError, match="pass the path"):
        bn_ops.describe(content)
    with pytest.raises(ExternalDataError, match="pass the path"):
        bn_ops.recalibrate(model, [images(2)])
    folded = bn_ops.fold(model)
    assert "is external data" in (folded.kept[0].reason or "")


def test_oversized_file_is_rejected_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # a sparse file
    with pytest.raises(ModelInvalidError, match="more than one protobuf message"):
        bn_ops.describe(path)
