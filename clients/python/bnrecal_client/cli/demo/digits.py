"""Generated digits: glyphs of 5 × 7 dots under random similarity transforms, 28 × 28 pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "new_domain", "source_domain"]

CLASSES = 10
_SIDE = 28
_DOT = 3  # pixels per dot of a glyph

# Rows of dots from top to bottom, in hexadecimal, for each digit.
_GLYPHS = (
    (0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E),
    (0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E),
    (0x0E, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1F),
    (0x1F, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0E),
    (0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02),
    (0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E),
    (0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E),
    (0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08),
    (0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E),
    (0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C),
)

Samples = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Images of shape (N, 1, 28, 28) with values 0…1, and their classes of shape (N,)."""


def source_domain(rng: np.random.Generator, count: int) -> Samples:
    """Return bright digits on black, with little noise."""
    images, labels = _digits(rng, count)
    return _noisy(rng, images, 0.05), labels


def new_domain(rng: np.random.Generator, count: int) -> Samples:
    """Return digits as a bad camera sees them: gray on gray, with a third of the contrast."""
    images, labels = _digits(rng, count)
    return _noisy(rng, 0.35 + 0.33 * images, 0.045), labels


def _noisy(
    rng: np.random.Generator, images: NDArray[np.float64], deviation: float
) -> NDArray[np.float32]:
    noise = rng.normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 1)[:, None].astype(np.float32)


def _digits(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    labels = rng.integers(0, CLASSES, count)
    images = np.stack([_drawn(rng, int(label)) for label in labels])
    for axis in (1, 2):  # a small blur
        images = (images + (np.roll(images, 1, axis) + np.roll(images, -1, axis)) / 2) / 2
    return images, labels


def _drawn(rng: np.random.Generator, label: int) -> NDArray[np.float64]:
    """Return one digit, moved, scaled, rotated and sheared at random."""
    dots = [[row >> place & 1 for place in range(4, -1, -1)] for row in _GLYPHS[label]]
    glyph = np.kron(np.array(dots, np.float64), np.ones((_DOT, _DOT)))
    scale, angle, shear = rng.uniform(0.8, 1.15), rng.normal(0, 0.12), rng.normal(0, 0.12)
    down, right = rng.uniform(-2.5, 2.5, 2)
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] - (_SIDE - 1) / 2
    y, x = rows - down, columns - right
    height, width = glyph.shape
    v = (y * np.cos(angle) + x * np.sin(angle)) / scale + height / 2
    u = (x * np.cos(angle) - y * np.sin(angle)) / scale + shear * y + width / 2
    inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
    places = (np.clip(v, 0, height - 1).astype(int), np.clip(u, 0, width - 1).astype(int))
    return np.asarray(glyph[places] * inside)
