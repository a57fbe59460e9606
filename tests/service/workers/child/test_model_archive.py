"""Models with external tensor files, uploaded as one archive."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from bn_ops.errors import ExternalDataError, ModelInvalidError, ModelUnsupportedError
from service.formats.members import MAX_MEMBERS
from service.settings import Settings
from service.workers.child.convert import embedded, holds_model
from service.workers.process_pool import ProcessExecutor
from tests.support.hostile_models import bn_model
from tests.support.service_fakes import ARCHIVE, GOOD_MODEL, FakeExecutor
from tests.support.service_http import Api

LIMIT = 1 << 20


def parts(*, location: str = "net.onnx.data") -> dict[str, bytes]:
    """Split a model into its graph and a file of its tensors."""
    model = onnx.load_model_from_string(bn_model())
    convert_model_to_external_data(model, location=location, size_threshold=0)
    data = io.BytesIO()
    for tensor in model.graph.initializer:
        entry = tensor.external_data.add
        entry(key="offset", value=str(data.tell()))
        entry(key="length", value=str(data.write(tensor.raw_data)))
        tensor.ClearField("raw_data")
    return {"net.onnx": model.SerializeToString(), location: data.getvalue()}


def packed(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def weights(content: bytes) -> dict[str, bytes]:
    model = onnx.load_model_from_string(content)
    arrays = (onnx.numpy_helper.to_array(one) for one in model.graph.initializer)
    names = (one.name for one in model.graph.initializer)
    return {name: array.tobytes() for name, array in zip(names, arrays, strict=True)}


@pytest.mark.parametrize("folder", ["", "net/"])
@pytest.mark.parametrize("location", ["net.onnx.data", "weights/all.bin"])
def test_external_tensors_are_embedded(folder: str, location: str, tmp_path: Path) -> None:
    moved = {folder + name: data for name, data in parts(location=location).items()}
    archive = packed(tmp_path, moved)
    assert holds_model(archive)
    found = embedded(archive, tmp_path, limit_bytes=LIMIT)
    assert weights(found) == weights(bn_model())
    assert list(tmp_path.iterdir()) == [archive]


def test_archive_of_one_model(tmp_path: Path) -> None:
    archive = packed(tmp_path, {"m.onnx": bn_model()})
    found = embedded(archive, tmp_path, limit_bytes=LIMIT)
    assert weights(found) == weights(bn_model())


def test_invalid_archive_is_rejected(tmp_path: Path) -> None:
    whole = parts()
    cases: list[tuple[dict[str, bytes], type[Exception], str]] = [
        ({"net.onnx": whole["net.onnx"]}, ExternalDataError, "no such file"),
        (whole | {"b.onnx": b""}, ModelInvalidError, "2 .onnx files"),
        (whole | {"net.onnx.data": b"short"}, ExternalDataError, "expected .* bytes|ends at"),
        ({"net.onnx": b"noise"}, ModelInvalidError, "not an ONNX model"),
        ({"../net.onnx": whole["net.onnx"]}, ModelInvalidError, "points outside"),
        (whole | {"net.onnx.data/x": b""}, ModelInvalidError, "file and a folder"),
        (whole | {"more": bytes(LIMIT + 1)}, ModelInvalidError, "exceeds a limit"),
        (parts(location="../net.bin"), ModelInvalidError, "points outside|points outside"),
    ]
    for content, error, text in cases:
        archive = packed(tmp_path, content)
        with pytest.raises(error, match=text):
            embedded(archive, tmp_path, limit_bytes=LIMIT)
        assert list(tmp_path.iterdir()) == [archive]


def test_oversized_archive_is_rejected(tmp_path: Path) -> None:
    many = parts() | {f"{number}.bin": b"x" for number in range(4)}
    _is_rejected_as_a_model(packed(tmp_path, many), max_members=5)
    _is_rejected_as_a_model(packed(tmp_path, parts() | {"more": bytes(LIMIT + 1)}))
    archive = packed(tmp_path, parts())
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(2 * LIMIT))
    _is_rejected_as_a_model(archive)


def _is_rejected_as_a_model(archive: Path, *, max_members: int = MAX_MEMBERS) -> None:
    with pytest.raises(ModelInvalidError, match="exceeds a limit") as caught:
        embedded(archive, archive.parent, limit_bytes=LIMIT, max_members=max_members)
    assert str(LIMIT) in caught.value.message
    assert "batch" not in caught.value.message
    assert "numpy" not in caught.value.message


def test_location_outside_the_archive(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1000))
    whole = parts(location="net.onnx.data")
    whole["net.onnx"] = whole["net.onnx"].replace(b"net.onnx.data", b"../../secret.")
    with pytest.raises(ExternalDataError, match="points outside"):
        embedded(packed(tmp_path, whole), tmp_path, limit_bytes=LIMIT)


def test_model_over_message_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.workers.child.convert.exceeds", lambda _: True)
    with pytest.raises(ModelUnsupportedError, match=r"bn_ops\.adapt"):
        embedded(packed(tmp_path, parts()), tmp_path, limit_bytes=LIMIT)


def test_archive_is_stored_as_onnx(api: Api, executor: FakeExecutor, settings: Settings) -> None:
    content = ARCHIVE + GOOD_MODEL
    headers = {"Content-Type": "application/zip"}
    response = api.http.post("/v1/models", content=content, headers=headers)
    assert response.status_code == 201
    assert response.json()["id"] == hashlib.sha256(content).hexdigest()
    stored = hashlib.sha256(GOOD_MODEL).hexdigest()
    (file,) = settings.data_dir.glob(f"models/{stored}-*/model.onnx")
    assert file.read_bytes() == GOOD_MODEL
    assert api.upload_model(content).status_code == 200
    assert executor.converting == 1


def test_worker_embeds_tensors(tmp_path: Path) -> None:
    archive, output = packed(tmp_path, parts()), tmp_path / "out"
    output.mkdir()
    executor = ProcessExecutor(Settings(worker_threads=1))
    made = asyncio.run(executor.convert(archive, output))
    assert weights(made.read_bytes()) == weights(bn_model())
    assert [one.name for one in output.iterdir()] == [made.name]
