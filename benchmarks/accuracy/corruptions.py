"""The fifteen corruptions of ImageNet-C for small grayscale images, in numpy and scipy.

Each takes float32 images of shape (n, 1, h, w) with values in [0, 1] and returns the same form. The
kinds are those of ImageNet-C. Each has one strength, chosen for 28x28 pixels with a dark background
before Shrink was written and not changed since. A seed determines every random choice.

Source of the list: Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", section 4. The code is independent: the published
implementation is made for color photographs, and its assets (frost pictures) for 224x224.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage  # type: ignore[import-untyped]  # no stubs are installed

__all__ = ["CORRUPTIONS", "corrupt"]

Gray = NDArray[np.float64]
Corruption = Callable[[Gray, np.random.Generator], Gray]

_JPEG_BLOCK = 8

# Annex K of ITU-T T.81, table K.1: luminance quantization.
_JPEG_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def corrupt(images: NDArray[np.float32], name: str, *, seed: int) -> NDArray[np.float32]:
    """Corrupt images.

    Args:
        images: shape (n, 1, h, w), values in [0, 1].
        name: a key of `CORRUPTIONS`.
        seed: determines every random choice, independently for each corruption.

    Returns:
        Same shape and range.
    """
    random = np.random.default_rng([seed, list(CORRUPTIONS).index(name)])
    changed = CORRUPTIONS[name](images[:, 0].astype(np.float64), random)
    return np.clip(changed, 0, 1).astype(np.float32)[:, None]


def gaussian_noise(x: Gray, random: np.random.Generator) -> Gray:
    """Gaussian sensor noise of constant strength."""
    return x + random.normal(0, 0.2, x.shape)


def shot_noise(x: Gray, random: np.random.Generator) -> Gray:
    """Poisson noise of a low photon count, with some stray light."""
    photons = 6.0
    return random.poisson((0.9 * x + 0.1) * photons) / photons


def impulse_noise(x: Gray, random: np.random.Generator) -> Gray:
    """Salt-and-pepper noise on one pixel in eight."""
    hit = random.random(x.shape)
    return np.where(hit < 0.0625, 0.0, np.where(hit > 0.9375, 1.0, x))


def defocus_blur(x: Gray, random: np.random.Generator) -> Gray:
    """Blur with a disk of 2 pixels radius."""
    del random
    grid = np.hypot(*np.mgrid[-2:3, -2:3])
    disk = np.clip(2.5 - grid, 0, 1)
    return _gray(ndimage.convolve(x, (disk / disk.sum())[None], mode="nearest"))


def glass_blur(x: Gray, random: np.random.Generator) -> Gray:
    """Pixels swapped with neighbors, between two slight blurs."""
    soft = ndimage.gaussian_filter(x, (0, 0.5, 0.5))
    shift = random.uniform(-1.8, 1.8, (2, *x.shape))
    swapped = _displace(soft, shift[0], shift[1], order=0)
    return _gray(ndimage.gaussian_filter(swapped, (0, 0.4, 0.4)))


def motion_blur(x: Gray, random: np.random.Generator) -> Gray:
    """Blur along a line of 7 pixels, in a random direction for each image."""
    angle = random.uniform(-np.pi / 4, np.pi / 4, len(x))[:, None, None]
    steps = np.linspace(-3, 3, 7)
    moved = [_displace(x, s * np.sin(angle), s * np.cos(angle), order=1) for s in steps]
    return _gray(np.mean(moved, axis=0))


def zoom_blur(x: Gray, random: np.random.Generator) -> Gray:
    """Mean over zoom factors from 1 to 1.4."""
    del random
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in x.shape[1:])
    zooms = np.linspace(1, 1.4, 8)
    moved = [
        _displace(x, (rows * (1 / z - 1))[None, :, None], columns * (1 / z - 1), order=1)
        for z in zooms
    ]
    return _gray(np.mean(moved, axis=0))


def snow(x: Gray, random: np.random.Generator) -> Gray:
    """Slanted bright streaks over a whitened image."""
    flakes = random.random(x.shape) > 0.96
    steps = np.linspace(-2, 2, 5)
    streaks = sum(_displace(flakes.astype(np.float64), s, 0.5 * s, order=1) for s in steps)
    return 0.7 * x + 0.3 * np.maximum(x, 0.5 * x + 0.3) + 0.8 * np.clip(streaks, 0, 1)


def frost(x: Gray, random: np.random.Generator) -> Gray:
    """Patches of ice crystals: thresholded smooth noise with grain."""
    field = _plasma(x.shape, random, exponent=1.5)
    ice = np.clip((field - 0.4) / 0.3, 0, 1) * (0.7 + 0.3 * random.random(x.shape))
    return 0.8 * x + 0.6 * ice


def fog(x: Gray, random: np.random.Generator) -> Gray:
    """A smooth bright cloud over an image of reduced contrast."""
    return (x + 0.9 * _plasma(x.shape, random, exponent=2.5)) / 1.9 + 0.1


def brightness(x: Gray, random: np.random.Generator) -> Gray:
    """Increased brightness."""
    del random
    return x + 0.3


def contrast(x: Gray, random: np.random.Generator) -> Gray:
    """A quarter of the contrast around the mean of the image, with a little noise."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return _gray(mean + 0.25 * (x - mean) + random.normal(0, 0.01, x.shape))


def elastic_transform(x: Gray, random: np.random.Generator) -> Gray:
    """Smooth random displacements of about 1.5 pixels."""
    shift = ndimage.gaussian_filter(random.normal(0, 1, (2, *x.shape)), (0, 0, 3, 3))
    shift *= 1.5 / shift.std()
    return _displace(x, shift[0], shift[1], order=1)


def pixelate(x: Gray, random: np.random.Generator) -> Gray:
    """Blocks of 3x3 pixels."""
    del random
    rows, columns = (np.minimum(np.arange(side) // 3 * 3 + 1, side - 1) for side in x.shape[1:])
    soft = ndimage.uniform_filter(x, (0, 3, 3))
    return _gray(soft[:, rows][:, :, columns])


def jpeg_compression(x: Gray, random: np.random.Generator) -> Gray:
    """Quantized 8x8 cosine transform, quality 8 (T.81 with the common quality scale)."""
    del random
    height, width = x.shape[1:]
    pad = ((0, 0), (0, -height % _JPEG_BLOCK), (0, -width % _JPEG_BLOCK))
    whole = np.pad(255 * x - 128, pad, mode="edge")
    n, h, w = whole.shape
    blocks = whole.reshape(n, h // _JPEG_BLOCK, _JPEG_BLOCK, w // _JPEG_BLOCK, _JPEG_BLOCK)
    table = np.clip(_JPEG_TABLE * (50 / 8), 1, 255)[:, None]
    coarse = np.round(fft.dctn(blocks, axes=(2, 4), norm="ortho") / table) * table
    restored = fft.idctn(coarse, axes=(2, 4), norm="ortho").reshape(n, h, w)
    return np.asarray(restored[:, :height, :width] + 128) / 255


def _gray(x: Any) -> Gray:
    """Return a scipy result with its static type."""
    return np.asarray(x, dtype=np.float64)


def _displace(x: Gray, down: Gray | float, right: Gray | float, *, order: int) -> Gray:
    """Sample each pixel at the offset given by two displacement fields; edges repeat."""
    n, height, width = x.shape
    image, row, column = np.meshgrid(
        np.arange(n), np.arange(height), np.arange(width), indexing="ij", sparse=True
    )
    where = np.broadcast_arrays(image, row + down, column + right)
    return _gray(ndimage.map_coordinates(x, where, order=order, mode="nearest"))


def _plasma(shape: tuple[int, ...], random: np.random.Generator, *, exponent: float) -> Gray:
    """Noise with a power-law spectrum, scaled to [0, 1] per image."""
    n, height, width = shape
    rows, columns = fft.fftfreq(height)[:, None], fft.fftfreq(width)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = fft.fft2(random.normal(0, 1, (n, height, width))) * frequency**-exponent
    field = np.real(fft.ifft2(spectrum))
    low = field.min(axis=(1, 2), keepdims=True)
    high = field.max(axis=(1, 2), keepdims=True)
    return _gray((field - low) / (high - low))


CORRUPTIONS: Mapping[str, Corruption] = {
    change.__name__: change
    for change in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}
