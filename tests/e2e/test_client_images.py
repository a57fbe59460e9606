"""Images by the command, in its own process and through a server: the same bytes come out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnrecal_client import Client, Images, PreprocessForm
from bnrecal_client.cli import main
from bnrecal_client.cli.exit_codes import Exit
from tests.support.hostile_archives import tarred, zipped
from tests.support.picture import encoded, picture
from tests.support.server_process import ServerProcess

MODEL = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"
PREPROCESS: PreprocessForm = {
    "resize": 32,
    "crop": 28,
    "color": "gray",
    "mean": 0.1307,
    "std": 0.3081,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, of archives, and of what is neither."""
    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for seed in range(7):
        kind = ("PNG", "JPEG", "WEBP")[seed % 3]
        place = images / "below" if seed % 2 else images
        (place / f"{seed}.{kind.lower()}").write_bytes(encoded(picture(40, 50, seed), kind))
    more = {f"{seed}.png": encoded(picture(60, 40, seed)) for seed in range(20, 23)}
    (images / "shard.tar").write_bytes(tarred({"0.cls": b"7", **more}))
    (images / "more.zip").write_bytes(zipped(more))
    (images / "labels.csv").write_text("none of ours")
    (images / ".thumbs.png").write_bytes(b"nor this")
    (tmp_path / "preprocess.json").write_text(json.dumps(PREPROCESS))
    monkeypatch.chdir(tmp_path)
    return images


def recalibrate(*words: str) -> tuple[bytes, bytes]:
    printed = ["recalibrate", str(MODEL), *words, "--preprocess", "preprocess.json", "--quiet"]
    assert main([*printed, "-o", "out.onnx", "--statistics", "out.safetensors"]) == Exit.OK
    return Path("out.onnx").read_bytes(), Path("out.safetensors").read_bytes()


def test_image_folder_gives_same_bytes_over_http_and_locally(folder: Path, tmp_path: Path) -> None:
    words = [str(folder), "--batch-size", "4", "--limit", "12"]
    with ServerProcess(tmp_path / "data") as server:
        remote = recalibrate(*words, "--server", server.url)
        with Client(server.url) as client:
            contents = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
            result = client.recalibrate(
                MODEL, [Images.of(contents[1:])], preprocess=PREPROCESS, progress=False
            )
    assert recalibrate(*words) == remote
    assert result.report["stream"]["samples"] == len(contents) - 1


def test_images_and_equal_arrays_give_equal_statistics(folder: Path) -> None:
    from_images = recalibrate(str(folder / "below"))
    arrays = []
    for path in sorted((folder / "below").iterdir()):
        image = Image.open(path).convert("L")
        image = image.resize((32, 32 * image.height // image.width), Image.Resampling.BILINEAR)
        top = round((image.height - 28) / 2)
        pixels = np.asarray(image)[top : top + 28, 2:30]
        arrays.append(((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)[None])
    np.save("arrays.npy", np.stack(arrays))
    words = ["recalibrate", str(MODEL), "arrays.npy", "--quiet", "--statistics", "a.safetensors"]
    assert main(words) == Exit.OK
    assert Path("a.safetensors").read_bytes() == from_images[1]


def test_error_names_an_invalid_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "3.png").write_bytes(b"no image")
    words = ["recalibrate", str(MODEL), str(folder), "--preprocess", "preprocess.json"]
    assert main(words) == Exit.INPUT
    assert "3.png' cannot be decoded" in capsys.readouterr().err


def test_error_for_images_suggests_preprocess(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recalibrate", str(MODEL), str(folder / "below")]) == Exit.INPUT
    assert "--preprocess" in capsys.readouterr().err
