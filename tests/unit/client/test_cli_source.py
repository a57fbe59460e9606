"""`recalibrate --source` and `inspect --images`, with real bn_ops in this process."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import bn_ops
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"


def samples(seed: int, mean: float, count: int = 24) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 0.4, (count, 1, 28, 28)).astype(np.float32)


@pytest.fixture
def folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "folded.onnx"
    onnx.save(bn_ops.fold(onnx.load(DIGITS)).model, path)
    np.save("x.npy", samples(1, 0.3))
    (tmp_path / "source").mkdir()
    np.save("source/a.npy", samples(2, 0.1))
    np.save("source/b.npy", samples(3, 0.1))
    return path


WORDS = ("recalibrate", "folded.onnx", "x.npy", "--estimator", "shrink", "--force", "-o", "o.onnx")


def test_folded_model_is_recalibrated_with_source_samples(folded: Path) -> None:
    assert main([*WORDS, "--source", "source", "--quiet"]) in {Exit.OK, Exit.DO_NOT_DEPLOY}
    expected = bn_ops.adapt(
        folded,
        [samples(1, 0.3)],
        source_batches=[samples(2, 0.1), samples(3, 0.1)],
        estimator="shrink",
    )
    written = onnx.load("o.onnx")
    assert written.graph == expected.model.graph
    assert len(expected.report.layers) > 0


def test_folded_model_without_source_samples(
    folded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS]) == Exit.MODEL
    assert "are enough: source_batches=" in capsys.readouterr().err
    assert not Path("o.onnx").exists()
    assert folded.exists()


@pytest.mark.usefixtures("folded")
def test_bad_source_sample_is_named_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    bad = samples(3, 0.1)
    bad[5, 0, 0, 0] = np.inf
    np.save("source/b.npy", bad)
    assert main([*WORDS, "--source", "source"]) == Exit.INPUT
    assert "source/b.npy, sample 5: input 'image' holds NaN or Inf" in capsys.readouterr().err
    assert main([*WORDS, "--source", "source", "--skip-bad"]) in {Exit.OK, Exit.DO_NOT_DEPLOY}
    assert "  source/b.npy, sample 5: NaN or Inf\n" in capsys.readouterr().out


@pytest.fixture
def digit_images(tmp_path: Path) -> Path:
    """Return a folder of MNIST-like images: one bright stroke on black."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = np.zeros((28, 28), np.uint8)
        column = int(rng.integers(8, 20))
        pixels[5:23, column : column + 3] = 250
        pixels[int(rng.integers(6, 20)), 6:22] = 200
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_ranking_names_the_preset(digit_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DIGITS), "--images", str(digit_images)]) == Exit.OK
    out = capsys.readouterr().out
    assert "9 layers, 9 can be recalibrated" in out
    assert "use --preprocess unit  (from 20 images)" in out
    assert main(["inspect", str(DIGITS), "--images", str(digit_images), "--json"]) == Exit.OK
    printed = json.loads(capsys.readouterr().out)
    distances = [one["distance"] for one in printed["preprocessings"]]
    assert distances == sorted(distances)
    assert (printed["preset"], printed["preprocessings"][0]["name"]) == ("unit", "unit")
    assert printed["preprocess"]["crop"] == [28, 28]
    assert bn_ops.preprocess_from_json(printed["preprocess"]).color == "gray"


def test_ranking_that_fits_no_preset_prints_its_json(
    tmp_path: Path, digit_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first layer's statistics become those of digits that were divided by 255 twice.
    model = onnx.load(DIGITS)
    node = next(one for one in model.graph.node if one.op_type == "BatchNormalization")
    for tensor in model.graph.initializer:
        scale = {node.input[3]: 1 / 255, node.input[4]: 1 / 255**2}.get(tensor.name)
        if scale is not None:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "twice.onnx")
    words = ["inspect", str(tmp_path / "twice.onnx"), "--images", str(digit_images)]
    assert main(words) == Exit.OK
    out = capsys.readouterr().out
    (use,) = (line for line in out.splitlines() if line.startswith("use "))
    form = json.loads("{" + use.split("{", 1)[1].rsplit("}", 1)[0] + "}")
    assert form["scale"] == pytest.approx(1 / 255**2)
    assert bn_ops.preprocess_from_json(form).crop == (28, 28)


def test_images_that_no_preprocessing_fits_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "white"
    folder.mkdir()
    for number in range(4):
        Image.new("L", (28, 28), 255 - number).save(folder / f"{number}.png")
    assert main(["inspect", str(DIGITS), "--images", str(folder)]) == Exit.OK
    printed = capsys.readouterr().out
    assert "warning: none is within 0.5 σ" in printed
    assert "use what the model was trained with" in printed


def test_images_for_a_model_that_takes_none(
    tmp_path: Path, digit_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(DIGITS)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(model, tmp_path / "open.onnx")
    words = ["inspect", str(tmp_path / "open.onnx"), "--images", str(digit_images)]
    assert main(words) == Exit.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert "--images needs a model with one image input of known height and width" in line


def test_damaged_image_is_named(
    tmp_path: Path, digit_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, format="PNG")
    (digit_images / "00.png").write_bytes(buffer.getvalue()[:30])
    assert main(["inspect", str(DIGITS), "--images", str(digit_images)]) == Exit.INPUT
    assert str(tmp_path / "images" / "00.png") in capsys.readouterr().err


def test_documented_trust_in_the_ranking() -> None:
    root = Path(__file__).parents[3]
    rows = json.loads((root / "benchmarks/results/accuracy-input-check.json").read_text())["rows"]
    right = {
        "MobileNetV2": "imagenet",
        "MobileNetV2 embedding": "imagenet",
        "EfficientNet-Lite0": "tf",
        "EfficientNet-Lite1": "tf",
        "EfficientNet-Lite2": "tf",
        "PP-OCR det": "imagenet",
        "PP-OCR cls": "tf",
        "PP-OCR rec": "tf",
    }
    hits = {True: [0, 0], False: [0, 0]}
    for row in rows:
        if row["network"] in right and not row["fault"] and row["best"]:
            found = hits[row["distance"] < 0.5]
            found[0] += row["best"] == right[row["network"]]
            found[1] += 1
    text = (root / "docs" / "input-check.md").read_text(encoding="utf-8")
    assert "{} of {} at a distance below 0.5 σ".format(*hits[True]) in text
    assert "{} of {} above".format(*hits[False]) in text
