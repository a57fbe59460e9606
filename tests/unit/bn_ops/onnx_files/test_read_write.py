"""Models whose tensors lie beside them: what is followed, what is refused, what a crash leaves."""

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

# Far below the network's 20 kB, so that its larger tensors go beside it.
LIMIT = 4_000


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".onnx")


def with_data(tmp_path: Path, location: str, **told: str) -> Path:
    """Write a model whose first tensor is said to lie at `location`."""
    model = residual_network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **told}.items():
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def data() -> bytes:
    return bytes(residual_network().graph.initializer[0].raw_data)


def test_a_large_model_is_written_in_two_files_and_read_as_it_was(tmp_path: Path) -> None:
    model, path = residual_network(), tmp_path / "model.onnx"
    write_model(model, path, limit=LIMIT)
    (name,) = beside(tmp_path)
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
    if name not in {"UNDEFINED", "STRING", "FLOAT8E8M0"}  # the last has no zero
]


@pytest.mark.parametrize("kind", _KINDS)
def test_numbers_of_every_type_are_written_beside_whatever_field_holds_them(
    tmp_path: Path, kind: str
) -> None:
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


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    model, path = residual_network(), tmp_path / "model.onnx"
    write_model(model, path)
    assert beside(tmp_path) == []
    assert onnx.load(path) == model


def test_writing_again_leaves_only_what_belongs_to_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    other = tmp_path / "other.onnx.0123456789abcdef.data"
    other.write_bytes(b"not ours")
    write_model(residual_network(seed=0), path, limit=LIMIT)
    first = set(beside(tmp_path))
    write_model(residual_network(seed=1), path, limit=LIMIT)
    second = set(beside(tmp_path))
    assert first & second == {other.name}
    assert len(second) == 2
    write_model(residual_network(seed=2), path)
    assert beside(tmp_path) == [other.name]
    assert read_model(path) == residual_network(seed=2)


def test_a_crash_between_the_two_files_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    write_model(residual_network(seed=0), path, limit=LIMIT)

    def dies(*_: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(modelfiles, "write_atomically", dies)
        with pytest.raises(OSError, match="power"):
            write_model(residual_network(seed=1), path, limit=LIMIT)
    assert read_model(path) == residual_network(seed=0)
    # What was left behind goes with the next model that is written.
    write_model(residual_network(seed=2), path, limit=LIMIT)
    assert len(beside(tmp_path)) == 1


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        write_model(residual_network(), tmp_path / "missing" / "model.onnx", limit=LIMIT)


def test_data_in_a_folder_below_are_found(tmp_path: Path) -> None:
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
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, location: str, why: str) -> None:
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
def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, make: Callable[[Path, Path], None], why: str
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(data())
    path = with_data(tmp_path, "w.bin")
    make(path.parent, secret)
    with pytest.raises(ExternalDataError, match=why):
        bn_ops.describe(path)


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(data())
    path = with_data(tmp_path, "weights/w.bin")
    (path.parent / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExternalDataError, match="is a link"):
        bn_ops.describe(path)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"offset": "8"}, "expected .* bytes"),
        ({"length": "8"}, "expected .* bytes"),
        ({"offset": "-8", "length": str(len(data()))}, "expected .* bytes"),
        ({"offset": "99999999", "length": str(len(data()))}, "the file ends at"),
        ({"length": "99999999999999"}, "expected .* bytes"),
        ({"offset": "first"}, "description is invalid"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    tmp_path: Path, told: dict[str, str], why: str
) -> None:
    path = with_data(tmp_path, "w.bin", **told)
    (path.parent / "w.bin").write_bytes(data())
    with pytest.raises(ExternalDataError, match=why):
        bn_ops.describe(path)


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = with_data(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(data()[:-4])
    with pytest.raises(ExternalDataError, match=r"expected .* bytes"):
        bn_ops.describe(path)


def test_without_a_path_nothing_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert "lie in another file" in (folded.kept[0].reason or "")


def test_a_file_beyond_one_message_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: it takes no room
    with pytest.raises(ModelInvalidError, match="more than one protobuf message"):
        bn_ops.describe(path)
