"""Samples with NaN and unreadable images: named in errors, or left out and listed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bnrecal_client import BatchError, Images, InputError, OptionError, SkippedSample
from bnrecal_client._encoding.samples import SampleFilter, finite_samples
from bnrecal_client.cli import main
from bnrecal_client.cli.data.array_batches import open_data
from bnrecal_client.cli.data.image_files import open_images
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.images import image_fault
from tests.support.client_server import MODEL, ClientServer
from tests.support.played_clients import Calls, check_statistics, stream
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]

DIGITS = str(Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx")


def picture(seed: int, size: tuple[int, int] = (30, 28), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def with_nan(batches: list[NDArray[np.float32]], batch: int, sample: int) -> Any:
    bad = [one.copy() for one in batches]
    bad[batch][sample, 1] = np.nan
    return bad


def test_error_names_sample_of_stream(client: Calls) -> None:
    batches = stream()
    before = sum(len(batch) for batch in batches[:2])
    with pytest.raises(BatchError, match=rf"sample {before + 1} of the stream") as caught:
        client.recalibrate(MODEL, with_nan(batches, 2, 1), progress=False)
    error = caught.value
    assert (error.code, error.batch, error.sample) == ("batch-not-finite", 2, before + 1)
    assert 'on_bad_sample="skip"' in error.message


def test_bad_samples_are_left_out_on_request(client: Calls) -> None:
    batches = stream()
    bad = with_nan(batches, 1, 0)
    result = client.recalibrate(MODEL, bad, progress=False, on_bad_sample="skip")
    check_statistics(result, [batches[0], batches[1][1:], *batches[2:]])
    assert result.skipped == (SkippedSample(index=len(batches[0]), reason="NaN or Inf"),)
    assert result.report["skipped_samples"][0]["index"] == len(batches[0])


def test_batch_of_bad_samples_is_not_sent(client: Calls, server: ClientServer) -> None:
    batches = stream()
    empty = np.full_like(batches[0], np.inf)
    result = client.recalibrate(
        MODEL, [empty, *batches, empty], progress=False, on_bad_sample="skip"
    )
    check_statistics(result, batches)
    assert len(result.skipped) == 2 * len(empty)
    assert list(server.stored(server.id)) == list(range(len(batches)))


def test_stream_of_bad_samples_only_is_empty(client: Calls) -> None:
    bad = [np.full((2, 3), np.nan, np.float32)]
    with pytest.raises(InputError, match="stream of batches is empty"):
        client.recalibrate(MODEL, bad, progress=False, on_bad_sample="skip")


def test_unknown_reaction_to_bad_samples_is_an_error(client: Calls, server: ClientServer) -> None:
    with pytest.raises(OptionError, match="on_bad_sample is 'drop'"):
        client.recalibrate(MODEL, stream(), on_bad_sample="drop")
    assert server.transport.requests == []


def test_bad_array_makes_the_sample_bad() -> None:
    left = np.ones((4, 2), np.float32)
    right = np.ones((4, 1, 3), np.float64)
    left[1, 0], right[3, 0, 2] = np.inf, np.nan
    batch: dict[str, NDArray[Any]] = {
        "left": left,
        "right": right,
        "whole": np.ones((4, 1), np.int64),
    }
    np.testing.assert_array_equal(finite_samples(batch), [True, False, True, False])
    kept = SampleFilter().arrays(batch)
    assert {name: len(array) for name, array in kept.items()} == dict.fromkeys(batch, 2)


def test_server_rejects_unequal_lengths() -> None:
    batch = {"left": np.full((2, 1), np.nan), "right": np.ones((3, 1))}
    assert SampleFilter().arrays(batch) == batch


def test_images_that_cannot_be_decoded_are_left_out() -> None:
    good, other = encoded(picture(0)), encoded(picture(1), "JPEG")
    items = (("a.png", good), ("b.jpg", b"no image"), ("c.jpg", other), ("d.png", good[:99]))
    bad = SampleFilter()
    assert bad.images(Images(items=items)).items == (items[0], items[2])
    assert [(skip.index, skip.name) for skip in bad.skipped] == [(1, "b.jpg"), (3, "d.png")]
    assert bad.skipped[0].reason == "not a complete JPEG, PNG, WEBP, BMP, GIF or TIFF image"


def test_client_and_worker_agree_on_images() -> None:
    from bn_ops.errors import ImageError
    from bn_ops.preprocess import Preprocess, image_arrays

    two = io.BytesIO()
    picture(0).save(two, format="WEBP", save_all=True, append_images=[picture(1)])
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8))
    contents = [
        *(encoded(picture(0, mode=mode)) for mode in ("RGB", "RGBA", "L", "P", "1")),
        *(encoded(picture(0), kind) for kind in ("JPEG", "WEBP", "BMP", "GIF", "TIFF")),
        *(encoded(picture(0), kind)[:200] for kind in ("JPEG", "BMP", "GIF", "TIFF")),
        *(two.getvalue(), encoded(deep), b"", b"x" * 100),
    ]
    for content in contents:
        try:
            (array,) = image_arrays([("name", content)], Preprocess())
            decoded = len(array) == 1
        except ImageError:
            decoded = False
        assert (image_fault(content) is None) is decoded, content[:20]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("BMP", ".bmp"),
        ("GIF", ".gif"),
        ("TIFF", ".tif"),
    ],
)
def test_member_is_named_by_content(kind: str, suffix: str) -> None:
    packed = Images.of([encoded(picture(0), kind)]).packed()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert [Path(name).suffix for name in archive.getnames()] == [suffix]


def folder_of_pictures(folder: Path) -> Path:
    folder.mkdir()
    for number, suffix in enumerate((".png", ".JPG", ".bmp")):
        kind = {".png": "PNG", ".JPG": "JPEG", ".bmp": "BMP"}[suffix]
        (folder / f"{number}{suffix}").write_bytes(encoded(picture(number), kind))
    (folder / "3.jpg").write_bytes(encoded(picture(3), "JPEG")[:300])
    (folder / "notes.txt").write_text("x")
    (folder / "more.txt").write_text("x")
    (folder / "README").write_text("x")
    (folder / ".hidden.png").write_text("x")
    return folder


def test_ignored_files_are_counted(tmp_path: Path) -> None:
    found = open_images([folder_of_pictures(tmp_path / "p")], batch_size=2, limit=None)
    assert found.ignored == {".txt": 2, "no suffix": 1}
    assert (found.files, found.samples) == (4, 4)
    np.save(tmp_path / "p" / "x.NPY.npy", np.ones((2, 3)))
    arrays = open_data([tmp_path / "p"], batch_size=2, limit=None)
    assert arrays.ignored == {".txt": 2, "no suffix": 1, ".png": 1, ".jpg": 2, ".bmp": 1}


def test_batches_stay_full_where_images_are_left_out(tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "p")
    (folder / "0a.png").write_bytes(b"damaged")
    bad = SampleFilter()
    found = open_images([folder], batch_size=2, limit=None, bad=bad)
    for _ in range(2):
        names = [[Path(name).name for name, _ in images.items] for images in found]
        assert names == [["0.png", "1.JPG"], ["2.bmp"]]
        assert [Path(str(skip.name)).name for skip in bad.skipped] == ["0a.png", "3.jpg"]


def preprocess_file(folder: Path) -> Path:
    path = folder / "preprocess.json"
    path.write_text(json.dumps({"resize": [28, 28], "color": "gray"}))
    return path


def test_command_leaves_bad_images_out_and_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of_pictures(tmp_path / "p")
    words = ["recalibrate", DIGITS, str(folder), "--preprocess", str(preprocess_file(tmp_path))]
    words += ["--allow-mismatch", "--estimator", "replace"]
    assert main(words) == Exit.INPUT
    err = capsys.readouterr().err
    assert "3.jpg" in err
    assert "--skip-bad leaves such images out" in err

    assert main([*words, "--skip-bad", "--report", "r.json", "--force"]) in {Exit.OK, 8}
    lines = capsys.readouterr().out.splitlines()
    assert "7 files: 4 read, 3 ignored (.txt 2, no suffix 1)" in lines
    assert "left out 1 bad sample" in lines
    assert any(line.startswith(f"  {folder / '3.jpg'}: ") for line in lines)
    (skipped,) = json.loads(Path("r.json").read_text())["skipped_samples"]
    assert (skipped["index"], skipped["name"]) == (3, str(folder / "3.jpg"))


@pytest.mark.parametrize("way", ["in process", "server"])
def test_command_names_file_and_sample_of_nan(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shape = (10, 3) if way == "server" else (10, 1, 28, 28)
    for name in ("a", "b"):
        array = rng.random(shape, dtype=np.float32)
        if name == "b":
            array[7].flat[2] = np.nan
        np.save(f"{name}.npy", array)
    words: tuple[object, ...] = ("a.npy", "b.npy", "--batch-size", "4", "--json")
    if way == "server":
        found: Desk = request.getfixturevalue("desk")
        monkeypatch.chdir(tmp_path)
        code, out, _ = found.run(
            "recalibrate", found.model, *words, "--server", "http://127.0.0.1:8000"
        )
    else:
        code = main(["recalibrate", DIGITS, *map(str, words)])
        out = capsys.readouterr().out
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (Exit.INPUT, "batch-not-finite")
    assert error["detail"].startswith("b.npy, sample 7: input ")
    assert "--skip-bad" in error["detail"]


def test_command_leaves_nan_out_over_http(desk: Desk) -> None:
    array = np.arange(30, dtype=np.float32).reshape(10, 3)
    array[4, 1] = np.nan
    np.save(desk.data, array)
    code, out, _ = desk.recalibrate("--skip-bad", "--batch-size", 3, "--json")
    assert code == Exit.OK
    (skipped,) = json.loads(out)["skipped_samples"]
    assert skipped == {"index": 4, "name": f"{desk.data}, sample 4", "reason": "NaN or Inf"}
    (opened,) = desk.server.recalibrations
    assert opened["batches"]["samples"] == 9


def test_error_names_the_file(desk: Desk) -> None:
    for number in range(3):
        np.save(f"y{number}.npy", np.ones((2, 3 if number < 2 else 4), np.float32))
    words = ("recalibrate", desk.model, *(f"y{n}.npy" for n in range(3)))
    code, _, err = desk.run(*words, "--server", "http://127.0.0.1:8000")
    assert code == Exit.INPUT
    assert "y2.npy, sample 0 and following: " in err
