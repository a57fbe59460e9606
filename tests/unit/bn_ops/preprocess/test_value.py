"""Preprocessing, against an independent implementation of torchvision's documented algorithm."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bn_ops import Preprocess, Resize, image_batches, preprocess_from_json
from bn_ops.core.signature import TensorInfo
from bn_ops.errors import ImageError, OptionError
from bn_ops.preprocess import check_preprocess, image_arrays, images
from tests.support import picture as oracle

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocess(resize=Resize(size=24), crop=(16, 16), mean=MEAN, std=STD)


def one(content: bytes, how: Preprocess) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    (array,) = image_arrays([("a", content)], how)
    assert array.shape[0] == 1
    found: np.ndarray[tuple[int, ...], np.dtype[Any]] = array[0]
    return found


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (37, 53), (24, 24), (10, 17)])
def test_imagenet_preprocessing(size: tuple[int, int]) -> None:
    source = oracle.picture(*size)
    found = one(oracle.encoded(source), IMAGENET)
    exact = oracle.resized(source, oracle.shorter_side(size[1], size[0], 24), "bilinear")
    cropped = oracle.center_crop(exact, (16, 16)) / 255
    expected = ((cropped - MEAN) / STD).transpose(2, 0, 1)
    assert found.shape == (3, 16, 16)
    assert found.dtype == np.float32
    # PIL, and thus torchvision, rounds to whole levels after each axis: at most one level in total.
    assert np.abs(found - expected).max() <= 1 / 255 / min(STD)
    assert np.abs(found - expected).mean() <= 0.3 / 255 / min(STD)


def test_normalization() -> None:
    source = oracle.picture(61, 47)
    found = one(oracle.encoded(source), IMAGENET)
    image = Image.fromarray(source).resize((31, 24), Image.Resampling.BILINEAR)
    tensor = torch.from_numpy(oracle.center_crop(np.asarray(image), (16, 16)).copy())
    tensor = tensor.permute(2, 0, 1).to(torch.float32).div(255)
    expected = tensor.sub(torch.tensor(MEAN)[:, None, None]).div(torch.tensor(STD)[:, None, None])
    # torchvision rounds three times to float32, we once; the largest value is about 2.6.
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2 * 2.6 * 2**-23)


@pytest.mark.parametrize("name", sorted(oracle.FILTERS))
@pytest.mark.parametrize("size", [(13, 11), (60, 70), (30, 11)])
def test_filters(name: str, size: tuple[int, int]) -> None:
    source = oracle.picture(40, 30)
    how = Preprocess(resize=Resize(size=size, interpolation=name), scale=1.0, layout="nhwc")
    found = one(oracle.encoded(source), how)
    difference = np.abs(found - oracle.resized(source, size, name))
    if name == "box":
        # A pixel whose border is at the center of another may be assigned to either.
        assert np.quantile(difference, 0.95) <= 1.0
    else:
        # Half a level after each axis; the second axis multiplies the first half by weights of
        # either sign whose absolute values sum to at most 1.4.
        signed = name in {"bicubic", "lanczos"}
        assert difference.max() <= (1.2 if signed else 1.0 + 1e-9)


@pytest.mark.parametrize("size", [(13, 11), (60, 70)])
def test_without_antialias(size: tuple[int, int]) -> None:
    source = oracle.picture(40, 30)
    how = Preprocess(resize=Resize(size=size, antialias=False), scale=1.0, layout="nhwc")
    found = one(oracle.encoded(source), how)
    tensor = torch.from_numpy(source).permute(2, 0, 1)[None].to(torch.float64)
    expected = torch.nn.functional.interpolate(tensor, size, mode="bilinear", antialias=False)
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() <= 1.0


def test_nearest() -> None:
    source = oracle.picture(40, 30)
    how = Preprocess(resize=Resize(size=(7, 9), interpolation="nearest"), scale=1.0, layout="nhwc")
    rows = ((np.arange(7) + 0.5) * 30 / 7).astype(int)
    columns = ((np.arange(9) + 0.5) * 40 / 9).astype(int)
    np.testing.assert_array_equal(one(oracle.encoded(source), how), source[rows][:, columns])


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(1, 64), st.integers(0, 2**31)
)
@settings(max_examples=50)
def test_sizes_and_crops(size: tuple[int, int], wanted: int, seed: int) -> None:
    width, height = images.resized_size(size, wanted)
    assert (height, width) == oracle.shorter_side(size[1], size[0], wanted)
    values = np.random.default_rng(seed).integers(0, 256, (size[1] % 40 + 1, size[0] % 40 + 1, 3))
    found = images.crop_center(values.astype(np.uint8), (wanted, 20))
    np.testing.assert_array_equal(found, oracle.center_crop(values, (wanted, 20)))


def test_channels_and_layout() -> None:
    source = oracle.picture()
    content = oracle.encoded(source)
    rgb = one(content, Preprocess(scale=1.0, layout="nhwc", dtype="uint8"))
    np.testing.assert_array_equal(rgb, source)
    bgr = one(content, Preprocess(scale=1.0, color="bgr"))
    np.testing.assert_array_equal(bgr, source[:, :, ::-1].transpose(2, 0, 1))
    gray = one(content, Preprocess(scale=1.0, color="gray"))
    luma = source @ np.array([0.299, 0.587, 0.114])
    assert gray.shape == (1, 30, 40)
    assert np.abs(gray[0] - luma).max() <= 1.0


def test_means_follow_output_channel_order() -> None:
    how = Preprocess(color="bgr", scale=1.0, mean=(1.0, 2.0, 3.0))
    source = oracle.picture()
    found = one(oracle.encoded(source), how)
    np.testing.assert_array_equal(found[0], source[:, :, 2] - 1.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_rounded_once(dtype: str) -> None:
    source = oracle.picture()
    exact = one(oracle.encoded(source), Preprocess(mean=MEAN, std=STD, dtype="float64"))
    found = one(oracle.encoded(source), Preprocess(mean=MEAN, std=STD, dtype=dtype))
    assert str(found.dtype) == dtype
    np.testing.assert_array_equal(found, exact.astype(found.dtype))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("1", "PNG")]
)
def test_other_modes_are_converted_to_rgb(mode: str, kind: str) -> None:
    image = Image.fromarray(oracle.picture()).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    found = one(buffer.getvalue(), Preprocess(scale=1.0, layout="nhwc"))
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(found, expected)


def test_orientation() -> None:
    image = Image.fromarray(oracle.picture(40, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    plain = Preprocess(layout="nhwc")
    assert one(buffer.getvalue(), plain).shape == (30, 40, 3)
    turned = one(buffer.getvalue(), Preprocess(layout="nhwc", orientation="apply"))
    np.testing.assert_array_equal(turned, np.rot90(one(buffer.getvalue(), plain), -1))


def test_batch_boundaries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, large = oracle.encoded(oracle.picture(8, 8)), oracle.encoded(oracle.picture(9, 8))
    monkeypatch.setattr(images, "CHUNK_BYTES", 3 * 8 * 8 * 3 * 4)
    named = [("", content) for content in [*([small] * 7), large, small]]
    shapes = [array.shape[0] for array in image_arrays(named, Preprocess())]
    assert shapes == [3, 3, 1, 1, 1]


def test_files_and_bytes_agree(tmp_path: Any) -> None:
    contents = [oracle.encoded(oracle.picture(seed=seed)) for seed in range(5)]
    paths = [tmp_path / f"{place}.png" for place in range(5)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    first = list(image_batches(contents, IMAGENET, batch_size=2))
    second = list(image_batches(paths, IMAGENET, batch_size=2))
    assert [one.shape[0] for one in first] == [2, 2, 1]
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)


def _deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _several(kind: str) -> bytes:
    frames = [Image.fromarray(oracle.picture(seed=seed)) for seed in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


JPEG = oracle.encoded(oracle.picture(), "JPEG")
BAD = {
    "nothing": (b"", "decoded"),
    "text": (b"<svg/>", "decoded"),
    "a truncated JPEG": (JPEG[: len(JPEG) // 2], "decoded"),
    "a truncated PNG": (oracle.encoded(oracle.picture())[:-30], "decoded"),
    "an unsupported format": (oracle.encoded(oracle.picture(), "TGA"), "decoded"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "decoded"),
    "16 bits": (_deep(), "8 bits"),
    "an animated WebP": (_several("WEBP"), "is animated"),
    "an animated GIF": (_several("GIF"), "is animated"),
    "a TIFF of two pages": (_several("TIFF"), "has several pages"),
    "a TIFF of 16 bits": (
        oracle.encoded(np.full((4, 4), 40_000, np.uint16), "TIFF"),
        "8 bits",
    ),
    "a TIFF of floats": (oracle.encoded(np.full((4, 4), 0.5, np.float32), "TIFF"), "8 bits"),
    "a hundred million pixels": (oracle.vast(), "67108864 pixels"),
}


LOSSLESS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BMP": ("RGB", "BMP", {}),
    "BMP with a palette": ("P", "BMP", {}),
    "gray BMP": ("L", "BMP", {}),
    "black and white BMP": ("1", "BMP", {}),
    "BMP with transparency": ("RGBA", "BMP", {}),
    "GIF": ("P", "GIF", {}),
    "interlaced GIF": ("P", "GIF", {"interlace": 1}),
    "GIF with a transparent color": ("P", "GIF", {"transparency": 3}),
    "gray GIF": ("L", "GIF", {}),
    "TIFF": ("RGB", "TIFF", {}),
    "TIFF with a palette": ("P", "TIFF", {}),
    "TIFF of printing colors": ("CMYK", "TIFF", {}),
    "TIFF with LZW": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "TIFF with Deflate": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF in strips": ("RGB", "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 5}}),
    "TIFF of a fax": ("1", "TIFF", {"compression": "group4"}),
}
ROWS, COLUMNS = 37, 53


def lossless(name: str) -> tuple[NDArray[np.float32], bytes]:
    """Return the pixels of an image in RGB, and its file in a format without loss."""
    mode, kind, options = LOSSLESS[name]
    source = Image.fromarray(oracle.picture(ROWS, COLUMNS)).convert(mode)
    buffer = io.BytesIO()
    source.save(buffer, kind, **options)
    return np.asarray(source.convert("RGB"), np.float32)[None], buffer.getvalue()


LEVELS = Preprocess(scale=1, layout="nhwc")


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_are_exact_in_every_format(name: str) -> None:
    pixels, content = lossless(name)
    (array,) = image_arrays([("one", content)], LEVELS)
    np.testing.assert_array_equal(array, pixels)


@pytest.mark.parametrize("name", LOSSLESS)
def test_truncated_file_is_refused_or_complete(name: str) -> None:
    """A file may end after its pixels, as where the trailer of a GIF is missing."""
    pixels, content = lossless(name)
    refused = 0
    for length in range(0, len(content), max(1, len(content) // 60)):
        try:
            (array,) = image_arrays([("one", content[:length])], LEVELS)
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(array, pixels)
    assert refused > 40


@pytest.mark.parametrize("name", BAD)
def test_invalid_images(name: str) -> None:
    content, words = BAD[name]
    with pytest.raises(ImageError, match=words) as caught:
        list(image_arrays([("bad.jpg", content)], IMAGENET, batch=4))
    assert caught.value.details() == {"batch": 4, "image": "bad.jpg"}


def test_resized_pixel_limit() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (200_000, 1)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="would be resized to 4800000 × 24"):
        list(image_arrays([("line", buffer.getvalue())], IMAGENET))


def test_missing_image(tmp_path: Any) -> None:
    with pytest.raises(ImageError, match="gone"):
        list(image_batches([tmp_path / "gone.png"], IMAGENET))


FORMS: list[dict[str, object]] = [
    {},
    {"resize": 256, "crop": 224, "mean": list(MEAN), "std": list(STD)},
    {"resize": {"size": [32, 48], "interpolation": "bicubic"}, "color": "gray", "mean": 0.5},
    {"resize": {"size": 32, "antialias": False}, "layout": "nhwc", "orientation": "apply"},
    {"scale": 1, "dtype": "uint8"},
]


@pytest.mark.parametrize("form", FORMS)
def test_json_round_trip(form: dict[str, object]) -> None:
    value = preprocess_from_json(form)
    assert preprocess_from_json(value.to_json()) == value
    assert hash(value) == hash(preprocess_from_json(value.to_json()))


def test_short_and_long_forms_are_equal() -> None:
    long = {"resize": {"size": 256}, "crop": [224, 224], "mean": [0.5], "std": [0.5]}
    assert preprocess_from_json({"resize": 256, "crop": 224, "mean": 0.5, "std": 0.5}) == (
        preprocess_from_json(long)
    )


@pytest.mark.parametrize(
    "form",
    [
        {"size": 3},
        {"resize": 0},
        {"resize": "256"},
        {"resize": True},
        {"resize": {"interpolation": "bilinear"}},
        {"resize": {"size": 8, "interpolation": "magic"}},
        {"resize": {"size": 8, "interpolation": "bicubic", "antialias": False}},
        {"resize": {"size": 8, "antialias": 1}},
        {"resize": [1 << 20, 1 << 20]},
        {"crop": [224]},
        {"crop": [-1, 3]},
        {"mean": [0.1, 0.2]},
        {"mean": "0.5"},
        {"mean": [0.0] * 1000},
        {"std": 0},
        {"std": [1, 0, 1]},
        {"std": 1e-320},
        {"scale": float("nan")},
        {"scale": 10**400},
        {"scale": True},
        {"color": "cmyk"},
        {"color": ["rgb"]},
        {"layout": "chwn"},
        {"dtype": "int8"},
        {"dtype": "uint8"},
        {"dtype": "float16", "scale": 1000.0},
        {"orientation": "left"},
    ],
)
def test_invalid_json_forms(form: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="preprocess"):
        preprocess_from_json(form)


def info(*shape: int | str | None, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(name="x", dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    ("inputs", "form"),
    [
        ([info("N", 3, 16, 16), info("N", 3, 16, 16)], {}),
        ([info("N", 1, 16, 16)], {}),
        ([info("N", 16, 16, 3)], {}),
        ([info("N", 3, 32, 32)], {"crop": 16}),
        ([info("N", 3, 32, 32)], {"resize": [16, 16]}),
        ([info("N", 3, 32, 32, dtype="float16")], {}),
        ([info("N", 3)], {}),
    ],
)
def test_incompatible_preprocessing(inputs: list[TensorInfo], form: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="preprocess"):
        check_preprocess(preprocess_from_json(form), inputs)


@pytest.mark.parametrize(
    ("one_input", "form"),
    [
        (info("N", 3, 16, 16), {"crop": 16}),
        (info("N", 3, 16, 16), {"resize": 16}),
        (info("N", 16, 16, 1), {"layout": "nhwc", "color": "gray"}),
        (info("N", 3, None, "W"), {"resize": 16}),
        (TensorInfo(name="x", dtype="float32", shape=None), {}),
    ],
)
def test_compatible_preprocessing(one_input: TensorInfo, form: dict[str, object]) -> None:
    check_preprocess(preprocess_from_json(form), [one_input])
