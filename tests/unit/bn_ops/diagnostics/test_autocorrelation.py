"""Correlated streams are detected whatever their batch sizes; independent ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from bn_ops.diagnostics.autocorrelation import SampleSeries, sample_features, watched
from bn_ops.diagnostics.build_report import warnings_of
from bn_ops.diagnostics.report import Correlation


def seen(x: np.ndarray, size: int = 7, max_blocks: int = 4096) -> Correlation | None:
    series = SampleSeries(max_blocks=max_blocks)
    for start in range(0, len(x), size):
        series.add(sample_features({"x": x[start : start + size]}))
    return series.correlation()


def images(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return independent images, each with its own level and pattern."""
    return (rng.normal(0, 1, (samples, 1, 1, 1)) + rng.normal(0, 1, (samples, 2, 6, 6))).astype(
        np.float32
    )


def walk(rng: np.random.Generator, samples: int, memory: float) -> np.ndarray:
    """Return a stationary AR(1) series per pixel."""
    x = np.empty((samples, 1, 4, 4))
    x[0] = rng.normal(0, 1, x.shape[1:])
    for i in range(1, samples):
        x[i] = memory * x[i - 1] + np.sqrt(1 - memory**2) * rng.normal(0, 1, x.shape[1:])
    return x


@pytest.mark.parametrize("samples", [64, 256, 1024])
def test_independent_samples(samples: int) -> None:
    rng = np.random.default_rng(0)
    found = [seen(images(rng, samples), 64) for _ in range(60)]
    effects = [c.design_effect for c in found if c is not None]
    assert len(effects) == 60
    assert sum(c.suspicious for c in found if c is not None) == 0
    # The mean of 60 design effects of expectation 1, each with standard error ≤ √(2/(blocks - 1)).
    assert np.mean(effects) == pytest.approx(1, abs=0.25)


def test_design_effect_of_ar1_series() -> None:
    # Variance of a mean over b of AR(1): (1 + 2 Σ (1 - k/b)·memory^k) times the independent one.
    memory, samples, block = 0.8, 1024, 32
    lags = np.arange(1, block)
    expected = 1 + 2 * np.sum((1 - lags / block) * memory**lags)
    rng = np.random.default_rng(1)
    found = [seen(walk(rng, samples, memory)) for _ in range(10)]
    effects = [c.design_effect for c in found if c is not None]
    # 10 series of 32 blocks and 16 independent pixels estimate it to within about 3 %.
    assert np.mean(effects) == pytest.approx(expected, rel=0.1)
    assert all(c is not None and c.suspicious for c in found)
    assert found[0] is not None
    assert found[0].block_samples == block
    assert found[0].effective_samples == pytest.approx(samples / found[0].design_effect, abs=1)
    assert found[0].error_ratio == pytest.approx(np.sqrt(found[0].design_effect))


def test_stream_sorted_by_class() -> None:
    rng = np.random.default_rng(2)
    level = np.repeat(rng.normal(0, 1, (10, 1, 4, 4)), 30, axis=0)
    sorted_by_class = level + 0.7 * rng.normal(0, 1, (300, 1, 4, 4))
    before, after = seen(sorted_by_class), seen(rng.permutation(sorted_by_class))
    assert before is not None
    assert before.suspicious
    assert before.effective_samples < 100
    assert after is not None
    assert not after.suspicious


@pytest.mark.parametrize("max_blocks", [16, 4096])
def test_invariance_under_batch_sizes(max_blocks: int) -> None:
    x = walk(np.random.default_rng(3), 333, 0.5)
    assert seen(x, 1, max_blocks) == seen(x, 10, max_blocks) == seen(x, 333, max_blocks)


def test_merged_blocks() -> None:
    x = walk(np.random.default_rng(4), 256, 0.6)
    fine = seen(x)
    coarse = seen(x, max_blocks=32)
    assert fine is not None
    assert coarse is not None
    assert coarse.block_samples == fine.block_samples == 16
    assert coarse.design_effect == pytest.approx(fine.design_effect, rel=1e-9)


def test_few_samples_or_constant_inputs() -> None:
    assert seen(images(np.random.default_rng(5), 40)) is None
    assert seen(np.full((200, 1, 3, 3), 0.1, np.float32)) is None
    assert SampleSeries().correlation() is None


def test_text_and_integer_inputs() -> None:
    words = np.array([["a"], ["b"]], dtype=object)
    numbers = np.array([[1, 3], [5, 7]], dtype=np.int64)
    features = sample_features({"words": words, "numbers": numbers})
    np.testing.assert_array_equal(features, [[1, 3, 5], [5, 7, 37]])


def test_large_samples_are_subsampled() -> None:
    x = np.random.default_rng(7).normal(3, 1, (2, 3, 200, 200)).astype(np.float32)
    features = sample_features({"x": x})
    assert features.shape == (2, 17)
    # Pieces of 250 values each: four standard errors of a mean, and of a mean square around 10.
    np.testing.assert_allclose(features[:, :16], 3, atol=4 / np.sqrt(250))
    np.testing.assert_allclose(features[:, 16], 10, atol=4 * np.sqrt(38 / 4000))


def test_stream_is_unchanged() -> None:
    batches = [{"x": np.ones((3, 2))}, {"x": np.zeros((2, 2))}]
    series = SampleSeries()
    assert list(watched(iter(batches), series)) == batches


def test_warning_about_correlation() -> None:
    moving = seen(walk(np.random.default_rng(6), 400, 0.9))
    steady = seen(images(np.random.default_rng(6), 400))
    assert moving is not None
    assert moving.suspicious
    (warning,) = warnings_of([], 400, moving)
    assert f"{moving.error_ratio:.1f} times" in warning
    assert f"worth about {moving.effective_samples}" in warning
    assert warnings_of([], 400, steady) == ()
    assert warnings_of([], 400) == ()
