"""Photographs from Debian's tuxpaint-stamps-default, and twelve strong corruptions.

`apt-get install tuxpaint-stamps-default`. The stamps are cut-out photographs with transparency:
each is drawn in the center of a uniform background of random color. Corruptions and strengths
are those of ImageNet-C's highest severity (Hendrycks & Dietterich 2019), implemented in numpy
and scipy, plus a color cast and darkness.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]  # no stubs are installed

__all__ = ["PHOTO_CORRUPTIONS", "PHOTO_FOLDER", "corrupt_photographs", "read_photographs"]

PHOTO_FOLDER = Path("/usr/share/tuxpaint/stamps")

# Folders of drawings and signs, not photographs.
_NOT_PHOTOGRAPHS = ("cartoon", "symbols", "hanukkah", "flags", "roadsigns", "notphoto")

Pixels = NDArray[np.uint8]
"""RGB photographs, shape (n, H, W, 3)."""

Floats = NDArray[np.float64]
Corruption = Callable[[Floats, np.random.Generator], Any]


def read_photographs(
    count: int, size: int = 224, *, seed: int = 0, folder: Path = PHOTO_FOLDER
) -> Pixels:
    """Read photographs in random order; shape (count, size, size, 3).

    Raises:
        FileNotFoundError: the Debian package tuxpaint-stamps-default is not installed.
    """
    files = [
        path
        for path in sorted(folder.rglob("*.png"))
        if not any(word in str(path) for word in _NOT_PHOTOGRAPHS)
    ]
    if len(files) < count:
        raise FileNotFoundError(f"{folder} contains {len(files)} photographs, {count} are required")
    random = np.random.default_rng(seed)
    chosen = [files[i] for i in random.permutation(len(files))[:count]]
    return np.stack([_on_ground(path, size, random) for path in chosen])


def _on_ground(path: Path, size: int, random: np.random.Generator) -> Pixels:
    ground = Image.new("RGB", (size, size), tuple(int(v) for v in random.integers(30, 226, 3)))
    with Image.open(path) as file:
        stamp = file.convert("RGBA")
    stamp.thumbnail((size, size), Image.Resampling.BICUBIC)
    corner = ((size - stamp.width) // 2, (size - stamp.height) // 2)
    ground.paste(stamp, corner, stamp)
    return np.asarray(ground)


def corrupt_photographs(photographs: Pixels, name: str, *, seed: int = 0) -> Pixels:
    """Corrupt photographs and round the result to 8 bits, as a camera does."""
    random = np.random.default_rng([seed, list(PHOTO_CORRUPTIONS).index(name)])
    changed = PHOTO_CORRUPTIONS[name](photographs / 255.0, random)
    return np.asarray(np.clip(np.round(changed * 255.0), 0, 255), dtype=np.uint8)


def gaussian_noise(x: Floats, random: np.random.Generator) -> Floats:
    """Sensor noise, independent per color."""
    return x + random.normal(0, 0.38, x.shape)


def shot_noise(x: Floats, random: np.random.Generator) -> Floats:
    """Poisson noise with three photons for white."""
    return random.poisson(x * 3.0) / 3.0


def impulse_noise(x: Floats, random: np.random.Generator) -> Floats:
    """Salt and pepper on 27 % of the values."""
    hit = random.random(x.shape)
    return np.where(hit < 0.135, 0.0, np.where(hit > 0.865, 1.0, x))


def defocus_blur(x: Floats, random: np.random.Generator) -> Floats:
    """Blur with a disk of 10 pixels radius."""
    del random
    return np.stack([_disk(image, 10) for image in x])


def _disk(image: Floats, radius: int) -> Floats:
    grid = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1])
    disk = (grid <= radius).astype(np.float64)
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    shape = [side + disk.shape[0] - 1 for side in padded.shape[:2]]
    spectrum = (
        np.fft.rfft2(padded, shape, axes=(0, 1))
        * np.fft.rfft2(disk / disk.sum(), shape)[:, :, None]
    )
    whole = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    start, (height, width) = 2 * radius, image.shape[:2]
    return np.asarray(whole[start : start + height, start : start + width])


def contrast(x: Floats, random: np.random.Generator) -> Floats:
    """A twentieth of the contrast."""
    del random
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray(mean + 0.05 * (x - mean))


def brightness(x: Floats, random: np.random.Generator) -> Floats:
    """Brightness increased by half of the range."""
    del random
    return x + 0.5


def dark(x: Floats, random: np.random.Generator) -> Floats:
    """A tenth of the light, with sensor noise."""
    return 0.1 * x + random.normal(0, 0.02, x.shape)


def fog(x: Floats, random: np.random.Generator) -> Floats:
    """A smooth bright cloud over a third of the contrast."""
    cloud = ndimage.gaussian_filter(random.normal(0, 1, x.shape[:3]), (0, 30, 30))
    low, high = cloud.min(axis=(1, 2), keepdims=True), cloud.max(axis=(1, 2), keepdims=True)
    return np.asarray(0.33 * x + 0.6 * ((cloud - low) / (high - low))[..., None])


def tint(x: Floats, random: np.random.Generator) -> Floats:
    """Light of a sodium lamp: almost no blue."""
    del random
    return np.asarray(x * np.array([1.0, 0.6, 0.15]))


def pixelate(x: Floats, random: np.random.Generator) -> Floats:
    """Blocks of 8x8 pixels."""
    del random
    size = x.shape[1]
    small = ndimage.uniform_filter(x, (0, 8, 8, 0))[:, 4::8, 4::8]
    return np.asarray(small.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size])


def jpeg_compression(x: Floats, random: np.random.Generator) -> Floats:
    """JPEG of quality 7."""
    del random
    return np.stack([_jpeg(image) for image in x])


def _jpeg(image: Floats) -> Floats:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image * 255, dtype=np.uint8)).save(buffer, "jpeg", quality=7)
    return np.asarray(Image.open(buffer), dtype=np.float64) / 255


def camera(x: Floats, random: np.random.Generator) -> Floats:
    """A low-quality camera at dusk: blur, darkness, a blue cast and noise."""
    soft = ndimage.gaussian_filter(x, (0, 2, 2, 0)) * np.array([0.35, 0.45, 0.65])
    return np.asarray(soft + random.normal(0, 0.08, x.shape))


PHOTO_CORRUPTIONS: Mapping[str, Corruption] = {
    change.__name__: change
    for change in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        contrast,
        brightness,
        dark,
        fog,
        tint,
        pixelate,
        jpeg_compression,
        camera,
    )
}
