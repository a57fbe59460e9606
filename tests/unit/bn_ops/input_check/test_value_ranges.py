"""Identification of the preprocessing of an array."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bn_ops.input_check.image_faults import Planes
from bn_ops.input_check.value_ranges import Candidate, candidates, identify

COLOR = candidates(3)
GRAY = candidates(1)


def pixels(channels: int, low: int = 0, high: int = 256) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.integers(low, high, (8, channels, 24, 20)).astype(np.float64)


def shown(candidate: Candidate, values: NDArray[np.float64]) -> Candidate | None:
    return identify(Planes(values=candidate.apply(values), channels_last=False))


@pytest.mark.parametrize("candidate", COLOR, ids=lambda c: f"{c.name}-{c.preprocess.color}")
def test_preprocessings_of_color_images(candidate: Candidate) -> None:
    found = shown(candidate, pixels(3))
    assert found is not None
    assert found.name == candidate.name
    # Without per-channel values the color order has no effect.
    if len(set(candidate.preprocess.mean)) > 1:
        assert found.preprocess == candidate.preprocess


@pytest.mark.parametrize("candidate", GRAY, ids=lambda c: c.name)
def test_preprocessings_of_gray_images(candidate: Candidate) -> None:
    assert shown(candidate, pixels(1)) == candidate


def test_applied_value_equals_preprocess() -> None:
    values = pixels(3)
    for candidate in COLOR:
        levels = candidate.preprocess.levels().astype(np.float64)
        planes = values[:, ::-1] if candidate.preprocess.color == "bgr" else values
        whole = planes.astype(np.int64)
        exact = np.stack([levels[c][whole[:, c]] for c in range(3)], axis=1)
        np.testing.assert_allclose(candidate.apply(values), exact, rtol=1e-6, atol=1e-5)


def test_pixels_are_recovered() -> None:
    values = pixels(3)
    for candidate in COLOR:
        np.testing.assert_allclose(candidate.invert(candidate.apply(values)), values, atol=0.02)


@pytest.mark.parametrize("name", ["unit", "tf", "imagenet"])
def test_double_normalization(name: str) -> None:
    once, twice = (
        next(c for c in COLOR if c.name == n and c.preprocess.color == "rgb")
        for n in (name, f"{name} twice")
    )
    unit = next(c for c in COLOR if c.name == "unit" and c.preprocess.color == "rgb")
    values = pixels(3)
    first = once.apply(values).astype(np.float64)
    # A normalization maps 0…1 but was applied to its own result; 1/255 maps 0…255.
    again = once.apply(first) if name == "unit" else once.apply(first * 255)
    assert unit.name == "unit"
    np.testing.assert_allclose(twice.apply(values), again, rtol=1e-5, atol=1e-5)


def test_bright_images_keep_their_range() -> None:
    tf = next(c for c in COLOR if c.name == "tf")
    found = shown(tf, pixels(3, low=128))
    assert found is None or found.name == "tf"


def test_values_between_levels() -> None:
    values = pixels(3) + np.random.default_rng(1).uniform(-0.4, 0.4, (8, 3, 24, 20))
    assert all(shown(candidate, values) is None for candidate in COLOR)
