"""Labels in the command: arrays, CSV files and class folders, for arrays and for images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from bnrecal_client import InputError, OptionError
from bnrecal_client._encoding.samples import SampleFilter
from bnrecal_client.cli import main
from bnrecal_client.cli.data.labels import Labels, labeled
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.images import Images

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"


def digit(number: int) -> NDArray[np.uint8]:
    """Return a picture of noise, which the network predicts as it likes."""
    return np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with two class folders, named by number, and a file to ignore."""
    folder = tmp_path / "photos"
    for label, numbers in ((3, (0, 1, 2)), (7, (3, 4))):
        (folder / str(label)).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(digit(number)).save(folder / str(label) / f"{number}.png")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("x")
    return folder


def read(
    path: Path,
    data: Path | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    outputs: int | None = 10,
    bad: SampleFilter | None = None,
) -> list[tuple[str, int]]:
    """Return the file name and the label of each labeled image."""
    labels = Labels(path=path, classes=classes, outputs=outputs)
    pairs: list[tuple[str, int]] = []
    for batch, numbers in labeled(labels, [data or path], images=True, batch_size=2, bad=bad):
        assert isinstance(batch, Images)
        assert len(batch) == len(numbers) <= 2
        names = [Path(name).name for name, _ in batch.items]
        pairs += zip(names, map(int, numbers), strict=True)
    return pairs


EXPECTED = [("0.png", 3), ("1.png", 3), ("2.png", 3), ("3.png", 7), ("4.png", 7)]


def test_class_folders_named_by_number(photos: Path) -> None:
    assert read(photos) == EXPECTED


def test_class_folders_named_by_class(photos: Path) -> None:
    (photos / "3").rename(photos / "dog")
    (photos / "7").rename(photos / "cat")
    names = ("bird", "cat", "dog")
    by_class = [("3.png", 1), ("4.png", 1), ("0.png", 2), ("1.png", 2), ("2.png", 2)]
    assert read(photos, classes=names) == by_class
    # Without names the folders must be all classes, in alphabetical order.
    assert read(photos, outputs=2) == [(name, number - 1) for name, number in by_class]
    with pytest.raises(OptionError, match=r"2 class folders \(cat, dog\), the model 10 classes"):
        read(photos)
    with pytest.raises(OptionError, match="'cat' is not a class; --classes has bird, dog"):
        read(photos, classes=("bird", "dog"))


@pytest.mark.parametrize("header", ["file,label\n", "\ufeffFile, Label\r\n", ""])
def test_a_csv_file_labels_images(photos: Path, header: str) -> None:
    lines = [f"{label}/{name},{label}" for name, label in EXPECTED]
    path = photos / "labels.csv"
    path.write_text(header + "\n".join(lines) + "\n\n", encoding="utf-8")
    assert read(path) == EXPECTED


def test_a_csv_file_takes_names_of_classes(photos: Path) -> None:
    path = photos / "labels.csv"
    path.write_text("3/0.png,dog\n7/3.png, cat\n")
    assert read(path, classes=("cat", "dog")) == [("0.png", 1), ("3.png", 0)]


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", InputError, "holds no labels"),
        ("3/0.png\n", InputError, "line 1: expected file,label"),
        ("3/0.png,3\nnone.png,3\n", InputError, "line 2: there is no image none.png"),
        ("3/0.png,dog\n", OptionError, "numbers are expected without --classes"),
        ("3/0.png,-1\n", OptionError, "'-1' is not a class"),
    ],
)
def test_a_wrong_csv_file_is_an_error(
    photos: Path, text: str, kind: type[InputError], says: str
) -> None:
    path = photos / "labels.csv"
    path.write_text(text)
    with pytest.raises(kind, match=says):
        read(path)


def test_an_array_labels_the_first_images(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    np.save(path, np.array([5, 6, 7, 8]))
    assert read(path, photos) == [("0.png", 5), ("1.png", 6), ("2.png", 7), ("3.png", 8)]
    np.save(path, np.zeros(6, np.int64))
    with pytest.raises(InputError, match="6 labels, the data only 5 samples"):
        read(path, photos)


def test_bad_images_lose_their_labels_too(photos: Path, tmp_path: Path) -> None:
    (photos / "3" / "1.png").write_bytes(b"damaged")
    assert read(photos, bad=SampleFilter()) == [EXPECTED[0], *EXPECTED[2:]]
    path = tmp_path / "labels.npy"
    np.save(path, np.arange(5))
    kept = [("0.png", 0), ("2.png", 2), ("3.png", 3), ("4.png", 4)]
    assert read(path, photos, bad=SampleFilter()) == kept


def test_bad_arrays_lose_their_labels_too(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    x[1, 0] = x[4, 1] = x[5, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(6))
    labels = Labels(path=tmp_path / "y.npy", classes=None, outputs=None)
    found: Any = list(
        labeled(labels, [tmp_path / "x.npy"], images=False, batch_size=4, bad=SampleFilter())
    )
    np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in found]), x[[0, 2, 3]])
    np.testing.assert_array_equal(np.concatenate([known for _, known in found]), [0, 2, 3])


@pytest.mark.parametrize("images", [True, False])
def test_labels_of_an_unknown_kind_are_an_error(photos: Path, images: bool) -> None:  # noqa: FBT001
    labels = Labels(path=photos / "notes.txt", classes=None, outputs=10)
    with pytest.raises(InputError, match=r"\.npy"):
        next(labeled(labels, [photos], images=images, batch_size=2))


def test_a_folder_without_class_folders_is_an_error(photos: Path) -> None:
    with pytest.raises(InputError, match="no folder for each class"):
        read(photos / "3")


def preprocess(folder: Path) -> Path:
    path = folder / "preprocess.json"
    path.write_text(json.dumps({"color": "gray"}))
    return path


def source_error(pixels: list[NDArray[np.uint8]], labels: list[int]) -> float:
    """Return the error of the source model, run by onnxruntime directly."""
    session = ort.InferenceSession(str(DIGITS))
    feeds = {"image": (np.stack(pixels)[:, None] / 255.0).astype(np.float32)}
    (scores,) = session.run(None, feeds)
    return float((np.asarray(scores).argmax(axis=1) != labels).mean())


@pytest.mark.parametrize("kind", ["folders", "csv", "npy"])
def test_labels_of_images_decide_in_this_process(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    writers: dict[str, Callable[[], Path]] = {
        "folders": lambda: photos,
        "csv": lambda: _written(tmp_path / "y.csv", "".join(f"photos/{n},{c}\n" for n, c in rows)),
        "npy": lambda: _saved(tmp_path / "y.npy", [label for _, label in EXPECTED]),
    }
    rows = [(f"{label}/{name}", label) for name, label in EXPECTED]
    words = [
        *("recalibrate", str(DIGITS), str(photos), "--preprocess", str(preprocess(tmp_path))),
        *("--labels", str(writers[kind]()), "--allow-mismatch", "--json"),
    ]
    assert main(words) in {Exit.OK, Exit.DO_NOT_DEPLOY}
    found = json.loads(capsys.readouterr().out)["evaluation"]
    expected = source_error([digit(n) for n in range(5)], [label for _, label in EXPECTED])
    assert found["samples"] == 5
    assert found["error_before"] == pytest.approx(expected, abs=1e-12)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _saved(path: Path, labels: list[int]) -> Path:
    np.save(path, np.array(labels))
    return path


def test_class_names_are_checked_before_the_work(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["recalibrate", str(DIGITS), str(photos), "--preprocess", str(preprocess(tmp_path))]
    for text, says in (("", "one name per line"), ("a\na\n", "each once")):
        names = str(_written(tmp_path / "names.txt", text))
        assert main([*words, "--labels", str(photos), "--classes", names]) == Exit.USAGE
        assert says in capsys.readouterr().err
    assert main([*words, "--labels", str(photos), "--classes", "none.txt"]) == Exit.USAGE
    assert "cannot be read as text" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))
