"""Models with external data files, sent as one archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnrecal_client._encoding.external_data import bundled
from bnrecal_client._encoding.model_source import read_model
from bnrecal_client.errors import ModelError
from service.workers.child.convert import embedded
from tests.support.hostile_models import bn_model

LIMIT = 1 << 24


def saved(folder: Path, *, location: str = "m.onnx.data", per_tensor: bool = False) -> Path:
    path = folder / "m.onnx"
    onnx.save_model(
        onnx.load_model_from_string(bn_model()),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=not per_tensor,
        location=None if per_tensor else location,
        size_threshold=0,
    )
    return path


def received(content: bytes, folder: Path) -> onnx.ModelProto:
    """Read an archive as the server does."""
    archive = folder / "received.zip"
    archive.write_bytes(content)
    return onnx.load_model_from_string(embedded(archive, folder, limit_bytes=LIMIT))


def arrays(model: onnx.ModelProto) -> dict[str, bytes]:
    tensors = model.graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in tensors}


@pytest.mark.parametrize("per_tensor", [False, True])
def test_server_reads_packed_external_data(*, per_tensor: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, per_tensor=per_tensor)
    content = bundled(path)
    assert content is not None
    assert arrays(received(content, tmp_path)) == arrays(onnx.load(path))
    assert bundled(path) == content
    found = read_model(path)
    assert found.body == content


def test_model_without_external_data_is_not_packed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (bn_model(), b"", b"noise", bytes(100)):
        path.write_bytes(content)
        assert bundled(path) is None


def test_external_data_of_every_tensor(tmp_path: Path) -> None:
    def tensor(name: str) -> TensorProto:
        made = numpy_helper.from_array(np.ones(3, np.float32), name)
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=f"{name}.bin")
        return made

    def constant(name: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=tensor(name))

    deep = helper.make_graph([constant("deep")], "deep", [], [])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=deep)
    function = helper.make_function("own", "f", [], ["z"], [constant("inside")], [])
    sparse = onnx.SparseTensorProto(values=tensor("values"), indices=tensor("indices"))
    graph = helper.make_graph(
        [constant("node"), branch], "g", [], [], [tensor("first")], sparse_initializer=[sparse]
    )
    path = tmp_path / "m.onnx"
    model = helper.make_model(graph, functions=[function])
    path.write_bytes(model.SerializeToString())
    names = {"first", "values", "indices", "node", "deep", "inside"}
    for name in names:
        with pytest.raises(ModelError, match=r"\.bin"):
            bundled(path)
        (tmp_path / f"{name}.bin").write_bytes(np.ones(3, np.float32).tobytes())
    content = bundled(path)
    assert content is not None
    assert "external" not in str(received(content, tmp_path))


def test_path_outside_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    inner = tmp_path / "inner"
    inner.mkdir()
    path = saved(inner)
    model = onnx.load(path, load_external_data=False)
    for name in ("../secret", str(tmp_path / "secret"), ""):
        model.graph.initializer[0].external_data[0].value = name
        path.write_bytes(model.SerializeToString())
        # Not packed, for the server to reject.
        assert bundled(path) is None


def test_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = saved(tmp_path)
    (tmp_path / "m.onnx.data").unlink()
    (tmp_path / "m.onnx.data").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="link") as refused:
        read_model(path)
    assert refused.value.code == "external-data"


@settings(max_examples=200)
@given(content=st.binary(max_size=200))
def test_random_bytes_raise_no_other_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(b"\x3a" + content)
    try:
        bundled(path)
    except ModelError as error:
        assert error.code == "external-data"  # noqa: PT017 - random bytes may name a file
