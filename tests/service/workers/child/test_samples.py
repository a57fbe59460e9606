"""What a worker finds in a few samples: pictures, the closest preprocessing, and predictions."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import bn_ops
from bn_ops.errors import BatchError, ImageError, OptionError
from bn_ops.preprocess import preprocess_from_json
from service.samples.schemas import PredictionsOut, PreviewOut
from service.workers.child.predict import predict
from service.workers.child.preview import preview
from service.workers.messages import Limits, WorkerTask
from tests.support.networks import residual_network
from tests.support.service_http import npy

SIZE = 32
LIMITS = Limits(
    memory_bytes=1,
    file_bytes=1,
    cpu_seconds=1,
    frontier_memory_bytes=1,
    frontier_spill_bytes=1,
    threads=1,
)


def photos(count: int, *, size: int = 40) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (count, 5, 5, 3))
    return [np.kron(one, np.ones((size // 5, size // 5, 1))).astype(np.uint8) for one in coarse]


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    """Return a network whose statistics are those of ImageNet-normalized photos."""
    network = residual_network()
    network.graph.input[0].type.tensor_type.shape.dim[2].dim_value = SIZE
    network.graph.input[0].type.tensor_type.shape.dim[3].dim_value = SIZE
    how = replace(bn_ops.Preprocess.preset("imagenet"), resize=bn_ops.Resize(size=SIZE))
    batches = list(bn_ops.image_batches([png(one) for one in photos(64)], how))
    artifact = bn_ops.adapt(network, batches, estimator=bn_ops.Replace(), allow_mismatch=True)
    return artifact.unfolded


class Desk:
    """Writes the files of a task."""

    def __init__(self, folder: Path, model: onnx.ModelProto) -> None:
        self._folder = folder
        self._model = folder / "model.onnx"
        onnx.save(model, self._model)
        self._inputs = [
            {"name": "x", "dtype": "float32", "shape": ["N", 3, SIZE, SIZE]},
        ]

    def task(self, content: bytes, kind: str, **options: Any) -> WorkerTask:
        samples = self._folder / "samples"
        samples.write_bytes(content)
        return WorkerTask(
            kind="preview",
            parent=1,
            output=str(self._folder),
            limits=LIMITS,
            model=str(self._model),
            recalibrated=str(self._model),
            inputs=self._inputs,
            samples=str(samples),
            samples_format=kind,
            options={"preprocess": None, "size": None, **options},
        )


@pytest.fixture
def desk(tmp_path: Path, trained: onnx.ModelProto) -> Desk:
    return Desk(tmp_path, trained)


def test_preview_ranks_the_preprocessing_of_training_first(desk: Desk) -> None:
    members = {f"{number:02}.png": png(one) for number, one in enumerate(photos(16))}
    found = PreviewOut.model_validate(preview(desk.task(archive(members), "tar")))
    assert found.samples == 16
    best = found.ranking[0]
    assert best.name == "imagenet"
    assert found.preprocess == best.preprocess
    assert found.check is not None
    assert found.check.plausible
    assert [one.name for one in found.pictures] == list(members)[:8]
    assert set(found.presets) == {"imagenet", "unit", "tf", "caffe", "none"}
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


CAFFE = replace(bn_ops.Preprocess.preset("caffe"), resize=bn_ops.Resize(size=SIZE))


@pytest.mark.parametrize("form", [None, CAFFE.to_json()])
def test_preview_equals_preprocessing_of_the_run(
    desk: Desk, form: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples that are checked are those that a run with the chosen preprocessing reads."""
    checked: list[NDArray[Any]] = []
    original = bn_ops.check_input

    def check(model: Any, batches: Any, **options: Any) -> bn_ops.InputCheck:
        checked.extend(batch["x"] for batch in batches)
        return original(model, batches, **options)

    monkeypatch.setattr(bn_ops, "check_input", check)
    images = [png(one) for one in photos(4)]
    members = {f"{number}.png": content for number, content in enumerate(images)}
    found = preview(desk.task(archive(members), "tar", preprocess=form))
    expected = bn_ops.image_batches(images, preprocess_from_json(found["preprocess"]), batch_size=1)
    for got, want in zip(checked, expected, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


def test_preview_decodes_each_image_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = Image.Image.convert

    def convert(image: Image.Image, mode: str) -> Image.Image:
        decoded.append(mode)
        return original(image, mode)

    monkeypatch.setattr(Image.Image, "convert", convert)
    members = {f"{number}.png": png(one) for number, one in enumerate(photos(5))}
    preview(desk.task(archive(members), "tar"))
    assert decoded == ["RGB"] * 5


@pytest.mark.parametrize("name", ["imagenet", "unit", "tf", "caffe", "none"])
def test_picture_shows_the_pixels_of_the_photo(desk: Desk, name: str) -> None:
    """With every preprocessing, the picture has the pixels of the photo."""
    (photo,) = photos(1, size=SIZE // 5 * 5)
    photo = np.kron(photo[:8, :8], np.ones((4, 4, 1))).astype(np.uint8)  # SIZE × SIZE, not resized
    form = bn_ops.Preprocess.preset(name).to_json()
    found = preview(desk.task(archive({"a.png": png(photo)}), "tar", preprocess=form))
    (picture,) = found["pictures"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["png"]))))
    np.testing.assert_array_equal(shown, photo)
    assert (picture["height"], picture["width"]) == (SIZE, SIZE)


def test_wrong_preprocessing_is_a_finding(desk: Desk) -> None:
    members = {f"{number:02}.png": png(one) for number, one in enumerate(photos(16))}
    form = {"resize": [SIZE, SIZE], "scale": 1}
    found = preview(desk.task(archive(members), "tar", preprocess=form))
    assert not found["check"]["plausible"]
    assert found["check"]["findings"][0]["suggestion"]
    assert found["preprocess"]["scale"] == 1
    assert found["ranking"][0]["name"] == "imagenet"  # the way out


def test_unreadable_images_are_skipped_and_named(desk: Desk) -> None:
    members = {"good.png": png(photos(1)[0]), "bad.png": b"not a picture"}
    found = preview(desk.task(archive(members), "tar"))
    assert found["samples"] == 1
    (skipped,) = found["skipped"]
    assert skipped["name"] == "bad.png"
    assert "bad.png" in skipped["reason"]
    with pytest.raises(ImageError, match="no image can be used"):
        preview(desk.task(archive({"bad.png": b"x"}), "tar"))


def test_at_most_64_samples_are_read(desk: Desk) -> None:
    one = png(photos(1)[0])
    found = preview(desk.task(archive({f"{n:03}.png": one for n in range(70)}), "tar"))
    assert found["samples"] == 64


def test_preview_of_arrays(desk: Desk) -> None:
    array = np.random.default_rng(1).normal(size=(80, 3, SIZE, SIZE)).astype(np.float32)
    found = PreviewOut.model_validate(preview(desk.task(npy(array), "npy")))
    assert (found.samples, found.preprocess, found.ranking) == (64, None, [])
    picture = found.pictures[0]
    assert picture.minimum == pytest.approx(float(array[0].min()))
    assert picture.maximum == pytest.approx(float(array[0].max()))
    with pytest.raises(BatchError):
        preview(desk.task(npy(array[:, :2]), "npy"))


def test_open_size_must_be_stated(tmp_path: Path) -> None:
    desk = Desk(tmp_path, residual_network())
    desk._inputs[0]["shape"] = ["N", 3, "H", "W"]
    content = archive({"a.png": png(photos(1)[0])})
    with pytest.raises(OptionError, match="height and width"):
        preview(desk.task(content, "tar"))
    found = preview(desk.task(content, "tar", size=[16, 24]))
    assert found["preprocess"]["crop"] == [16, 24]


def test_predictions_are_those_of_both_models(desk: Desk, trained: onnx.ModelProto) -> None:
    import onnxruntime as ort

    array = np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
    found = PredictionsOut.model_validate(predict(desk.task(npy(array), "npy")))
    session = ort.InferenceSession(trained.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"x": array})[0].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert found.classes == logits.shape[1]
    for row, sample in zip(expected, found.samples, strict=True):
        order = np.argsort(-row)[:3]
        assert [one.index for one in sample.before] == list(order)
        assert [one.probability for one in sample.after] == pytest.approx(row[order], rel=1e-4)


def test_predictions_of_images_need_preprocess(desk: Desk) -> None:
    content = archive({"a.png": png(photos(1)[0]), "b.png": b"x"})
    with pytest.raises(OptionError, match="without preprocess"):
        predict(desk.task(content, "tar"))
    form = {"resize": [SIZE, SIZE]}
    found = predict(desk.task(content, "tar", preprocess=form))
    assert [one["name"] for one in found["samples"]] == ["a.png"]
    assert [one["name"] for one in found["skipped"]] == ["b.png"]
