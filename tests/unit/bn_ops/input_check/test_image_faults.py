"""Faults visible in the pixel values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bn_ops.input_check.image_faults import (
    Planes,
    blank_channels,
    constant_samples,
    is_flat,
    is_interleaved,
    planes_of,
)


def pictures(samples: int = 6, *, gray: bool = False) -> NDArray[np.float32]:
    """Return images with a natural spectrum, 0…255; (n, 3, 36, 42)."""
    rng = np.random.default_rng(0)
    shape = (36, 42)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = frequency[0, 1]
    noise = rng.normal(size=(samples, 3, *frequency.shape))
    planes = np.fft.irfft2(noise / frequency, s=shape)
    if gray:
        planes = np.repeat(planes[:, :1], 3, axis=1)
    planes = 128 + 50 * planes / planes.std()
    return np.asarray(np.clip(np.round(planes), 0, 255), dtype=np.float32)


def found(array: NDArray[np.generic]) -> Planes:
    planes = planes_of([array])
    assert planes is not None
    return planes


@pytest.mark.parametrize("gray", [False, True])
def test_reshaped_layout_is_detected(gray: bool) -> None:  # noqa: FBT001
    right = pictures(gray=gray)
    last = right.transpose(0, 2, 3, 1)
    assert not is_interleaved(found(right))
    assert not is_interleaved(found(np.ascontiguousarray(last)))
    assert is_interleaved(found(last.reshape(right.shape)))
    assert is_interleaved(found(right.reshape(last.shape)))


def test_noise_has_no_layout() -> None:
    noise = np.random.default_rng(0).normal(size=(8, 3, 30, 30)).astype(np.float32)
    assert not is_interleaved(found(noise))


def test_constant_images_are_counted() -> None:
    images = pictures()
    images[2] = np.array([10, 20, 30])[:, None, None]
    assert constant_samples(found(images)).tolist() == [False, False, True, False, False, False]


def test_blank_channel() -> None:
    images = pictures()
    assert blank_channels(found(images)) == ()
    images[:, 1] = 7
    assert blank_channels(found(images)) == (1,)
    assert blank_channels(found(images[:, :1])) == ()


def test_flat_images_on_another_scale() -> None:
    images = pictures() / np.float32(255)
    assert not is_flat(found(images * 2 - 1))
    assert is_flat(found(images / 255 * 2 - 1))
    faint = np.float32(0.5) + np.float32(0.05) * (images - images.mean())
    assert not is_flat(found(faint))


def test_other_arrays_have_no_planes() -> None:
    assert planes_of([]) is None
    assert planes_of([np.zeros((2, 3, 4), np.float32)]) is None
    assert planes_of([np.zeros((2, 5, 4, 7), np.float32)]) is None
    assert planes_of([np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 3, 9, 8))]) is None
