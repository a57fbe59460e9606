"""Files that are not ONNX models, and invalid models."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import bn_ops
from bn_ops.errors import (
    ModelAlreadyFoldedError,
    ModelInvalidError,
    ModelUnsupportedError,
    ModelWithoutBatchNormError,
)
from tests.support.networks import GraphBuilder, residual_network


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no graph"),
        (b"hello, world", "not an ONNX model"),
        (b"\x00" * 1000, "not an ONNX model"),
        (residual_network().SerializeToString()[:-40], "not an ONNX model"),
        (pickle.dumps({"a": 1}), "a pickle, which is never loaded"),
        (zipped(), "zip archive"),
    ],
)
def test_files_that_are_not_models(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for form in (content, path):
        with pytest.raises(ModelInvalidError, match=says) as caught:
            bn_ops.describe(form)
        assert "bn_ops.export" in caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalidError, match="there is no model file"):
        bn_ops.describe(tmp_path / "none.onnx")


def test_invalid_graph() -> None:
    model = residual_network()
    model.graph.node[0].input[0] = "missing"
    with pytest.raises(ModelInvalidError, match="checker"):
        bn_ops.describe(model)


def test_unsupported_type() -> None:
    with pytest.raises(ModelUnsupportedError, match="not dict"):
        bn_ops.describe({})  # type: ignore[arg-type]


def test_folded_model_is_recognized() -> None:
    g = GraphBuilder()
    y = g.op("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4))
    with pytest.raises(ModelAlreadyFoldedError, match="1 of its 1 convolutions have a bias") as e:
        bn_ops.describe(g.model([("x", ["N", 3, 8, 8])], [y]))
    assert "optimize=False" in e.value.message


def test_model_without_batchnorm() -> None:
    g = GraphBuilder()
    y = g.op("Gemm", "x", g.weight(4, 3), g.weight(4), transB=1)
    with pytest.raises(ModelWithoutBatchNormError, match="LayerNorm") as caught:
        bn_ops.describe(g.model([("x", ["N", 3])], [y]))
    assert caught.value.code == "model-without-batchnorm"


def test_description() -> None:
    info = bn_ops.describe(residual_network())
    (image,) = info.inputs
    assert (image.name, image.dtype, image.shape) == ("x", "float32", ("N", 3, "H", "W"))
    assert [layer.name for layer in info.layers] == [
        "stem.bn",
        "block0.bn1",
        "block0.bn2",
        "block1.bn1",
        "block1.bn2",
        "block1.down.bn",
    ]
    stem = info.layers[0]
    assert (stem.channels, stem.input_rank, stem.affine, stem.reason) == (8, 4, True, None)
    assert stem.eps == np.float32(1e-5)
    assert info.warnings == ()


def test_describe_does_not_modify_model() -> None:
    model = residual_network()
    before = model.SerializeToString()
    bn_ops.inspect(model)
    assert model.SerializeToString() == before


def test_external_data_outside_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\x00" * 4096)
    model = residual_network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelInvalidError):
        bn_ops.describe(folder / "model.onnx")
