"""Batches of images, and their preprocessing option."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from bnrecal_client import BatchError, Images, InputError, OptionError
from bnrecal_client._encoding.batches import encode
from bnrecal_client.cli.data.image_files import open_images
from bnrecal_client.cli.data.preprocess_files import read_preprocess
from bnrecal_client.options import Options


def test_equal_images_give_equal_archives_in_order() -> None:
    batch = Images.of([b"\x89PNG 1", b"\xff\xd8\xff 2", b"RIFF 3"])
    assert batch.packed() == Images.of([content for _, content in batch.items]).packed()
    with tarfile.open(fileobj=io.BytesIO(batch.packed())) as archive:
        found = [(entry.name, archive.extractfile(entry)) for entry in archive]
    assert [name for name, _ in found] == [
        "000000-image.png",
        "000001-image.jpg",
        "000002-image.webp",
    ]
    assert len(batch) == 3


def test_archive_names_are_unique_and_readable() -> None:
    batch = Images(items=(("a/x.png", b"1"), ("b/x.png", b"2"), ("c\\\n.JPG", b"3")))
    with tarfile.open(fileobj=io.BytesIO(batch.packed())) as archive:
        assert archive.getnames() == ["000000-x.png", "000001-x.png", "000002-c__.JPG"]


def test_batch_of_images_is_sent_as_tar() -> None:
    found = encode(Images.of([b"\x89PNG"]), ["x"], index=0)
    assert found.media_type == "application/x-tar"


def test_error_names_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="gone"):
        Images.of([tmp_path / "gone.png"])


def test_images_are_counted_and_limited_across_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp", "d.txt"):
        (tmp_path / name).write_bytes(name.encode())
    found = open_images([tmp_path], batch_size=2, limit=None)
    assert (len(found), found.samples) == (2, 3)
    names = [[Path(name).name for name, _ in batch.items] for batch in found]
    assert names == [["a.JPG", "b.png"], ["c.webp"]]
    (one,) = open_images([tmp_path], batch_size=2, limit=1)
    assert len(one) == 1


@pytest.mark.parametrize("name", ["x.npy", "empty", "gone.png", "bad.tar", "bad.zip"])
def test_path_without_images_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("x.npy", "bad.tar", "bad.zip"):
        (tmp_path / file).write_bytes(b"neither nor")
    with pytest.raises(InputError, match=name.partition(".")[0]):
        open_images([tmp_path / name], batch_size=2, limit=None)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_preprocess_file_must_be_an_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(OptionError, match=r"p\.json"):
        read_preprocess(tmp_path / "p.json", list)


STORED = {
    "resize": {"size": 256, "interpolation": "bilinear", "antialias": True},
    "crop": [224, 224],
    "mean": [0.5],
    "color": "rgb",
}


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ({"resize": 256, "crop": 224, "mean": 0.5}, True),
        ({"resize": {"size": 256}, "mean": (0.5,)}, True),
        ({"resize": 255}, False),
        ({"crop": [224, 225]}, False),
        ({"color": "bgr"}, False),
        (None, False),
    ],
)
def test_resume_with_different_preprocessing(said: dict[str, object] | None, *, same: bool) -> None:
    stored = {"method": "exact", "layers": None, "estimator": {"name": "replace"}}
    options = Options.of(method="exact", estimator=None, layers=None, preprocess=said)
    wrong = options.differences(stored | {"preprocess": STORED})
    assert wrong == ([] if same else ["preprocess"])
