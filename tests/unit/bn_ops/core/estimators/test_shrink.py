"""Shrink moves from the source to the target in proportion to the evidence."""

from __future__ import annotations

import numpy as np
import pytest

from bn_ops.core.estimators import Replace, Shrink, estimator_from_json, guard
from bn_ops.core.estimators.shrink import log_gamma_moments, shift_weights
from bn_ops.core.moments import Moments, measure
from bn_ops.core.statistics import RunningStatistics

CHANNELS = 32
SOURCE = RunningStatistics(mean=np.linspace(-2, 2, CHANNELS), var=np.geomspace(0.1, 10, CHANNELS))


def images(samples: int, seed: int, *, positions: int = 49) -> np.ndarray:
    """Return samples of the source distribution; a tenth of the variance is between samples."""
    rng = np.random.default_rng(seed)
    own = np.sqrt(0.1) * rng.normal(0, 1, (samples, CHANNELS, 1))
    x = own + np.sqrt(0.9) * rng.normal(0, 1, (samples, CHANNELS, positions))
    moved_and_scaled: np.ndarray = SOURCE.mean[:, None] + np.sqrt(SOURCE.var)[:, None] * x
    return moved_and_scaled


def moved(new: RunningStatistics) -> np.ndarray:
    """Return the distance of a result from the source per channel, in σ and ln σ² combined."""
    shift = (new.mean - SOURCE.mean) / np.sqrt(SOURCE.var)
    return np.hypot(shift, np.log(new.var / SOURCE.var))


@pytest.mark.parametrize("samples", [1, 2, 4, 8, 64])
def test_without_shift_stays_near_source(samples: int) -> None:
    ratios = []
    for seed in range(20):
        moments = measure(images(samples, seed))
        ratios.append(
            moved(Shrink()(SOURCE, moments)).mean() / moved(Replace()(SOURCE, moments)).mean()
        )
    # The source is the truth, so any distance from it is error.
    assert np.mean(ratios) < 0.35
    assert max(ratios) < 0.7


@pytest.mark.parametrize("samples", [8, 32, 256])
def test_large_shift_reaches_target(samples: int) -> None:
    moments = measure(0.3 * images(samples, 0) + 3.0)
    new, target = Shrink()(SOURCE, moments), Replace()(SOURCE, moments)
    left = np.abs(np.log(new.var / target.var))
    assert np.median(left) < 0.1  # of a shift of ln 0.09 = -2.4
    shifted = np.abs(target.mean - SOURCE.mean) / np.sqrt(SOURCE.var) > 1
    part = (new.mean - SOURCE.mean)[shifted] / (target.mean - SOURCE.mean)[shifted]
    assert part.min() > 0.95
    assert part.max() < 1


def test_sparse_shift_keeps_other_channels() -> None:
    x = images(64, 1)
    x[:, :3] += 5 * np.sqrt(SOURCE.var)[:3, None]
    new = moved(Shrink()(SOURCE, measure(x)))
    assert new[:3].min() > 4.5
    assert np.median(new[3:]) < 0.05


def test_equal_shift_gives_equal_weights() -> None:
    rng = np.random.default_rng(0)
    weights = shift_weights(9.0 * rng.chisquare(1, 400))
    # The true r is 8, so w is 8/9 unless t² is nearly zero. A single channel with t² = 1 would look
    # unshifted.
    assert shift_weights(np.array([1.0]))[0] < 0.6
    assert np.median(weights) == pytest.approx(8 / 9, abs=0.05)
    assert weights.std() < 0.1


def test_weights_increase_with_evidence() -> None:
    rng = np.random.default_rng(1)
    ratios = np.sort(np.concatenate([rng.chisquare(1, 50), 100 * rng.chisquare(1, 14), [0, 1e12]]))
    weights = shift_weights(ratios)
    assert (np.diff(weights) >= -1e-12).all()
    assert weights.min() >= 0
    assert weights.max() < 1


def test_weights_are_fixed_point_of_prior() -> None:
    # An independent EM per channel and grid point, with twice as many iterations.
    ratios = np.random.default_rng(2).chisquare(1, 12) * np.repeat([1.0, 30.0], 6)
    grid = [0.0, *(4.0**k for k in range(-1, 16))]
    prior = [1 / len(grid)] * len(grid)
    for _ in range(200):
        votes = [1 / len(grid)] * len(grid)
        for t in ratios:
            joint = [
                p * np.exp(-t / (2 * (1 + r))) / np.sqrt(1 + r)
                for p, r in zip(prior, grid, strict=True)
            ]
            votes = [v + j / sum(joint) for v, j in zip(votes, joint, strict=True)]
        prior = [v / (len(ratios) + 1) for v in votes]
    expected = []
    for t in ratios:
        joint = (
            np.array(prior) * np.exp(-t / (2 * (1 + np.array(grid)))) / np.sqrt(1 + np.array(grid))
        )
        expected.append(float(joint @ (np.array(grid) / (1 + np.array(grid))) / joint.sum()))
    np.testing.assert_allclose(shift_weights(ratios), expected, atol=0.02)


@pytest.mark.parametrize(
    "shape", [(1, CHANNELS), (1, CHANNELS, 4, 4), (2, CHANNELS), (3, CHANNELS)]
)
def test_one_and_two_samples(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    spread = np.sqrt(SOURCE.var).reshape(1, -1, *[1] * (len(shape) - 2))
    middle = SOURCE.mean.reshape(spread.shape)
    new = Shrink()(SOURCE, measure(middle + spread * rng.normal(0, 1, shape)))
    assert np.isfinite(new.mean).all()
    ratio = new.var / SOURCE.var
    # The variance of two normal values is off by a factor of 10 in a quarter of the channels.
    assert ratio.min() > 0.05
    assert ratio.max() < 4


def test_single_value_per_channel() -> None:
    x = (SOURCE.mean + 100 * np.sqrt(SOURCE.var))[None]
    new = Shrink()(SOURCE, measure(x))
    assert (np.abs(new.mean - x[0]) < 0.1 * np.abs(x[0] - SOURCE.mean)).all()
    assert (new.var > 0.5 * SOURCE.var).all()


def test_dead_channels() -> None:
    source = RunningStatistics(mean=np.zeros(4), var=np.array([1.0, 1.0, 0.0, 0.0]))
    x = np.random.default_rng(4).normal(0, 1, (16, 4, 9))
    x[:, 1] = 2.0  # constant in the target
    x[:, 3] = 0.0  # dead in both
    new, target = Shrink()(source, measure(x)), Replace()(source, measure(x))
    assert new.mean[1] == 2.0
    assert new.var[1] == 0.0
    assert new.var[2] == target.var[2]
    guarded = guard(source, new, eps=1e-5)
    assert (guarded.silenced, guarded.dead) == ((1,), (3,))
    alone = Shrink()(RunningStatistics(mean=np.zeros(1), var=np.ones(1)), measure(x[:, :1]))
    assert new.mean[0] == pytest.approx(alone.mean[0], abs=1e-12)


def test_nearly_dead_channel_amplification() -> None:
    x = images(8, 5)
    x[:, 0] = 1 + 1e-9 * x[:, 0]
    moments = measure(x)
    guarded = guard(SOURCE, Shrink()(SOURCE, moments), eps=1e-5)
    assert 0 in guarded.silenced


def test_json_form() -> None:
    assert Shrink().to_json() == {"name": "shrink"}
    assert estimator_from_json({"name": "shrink"}) == Shrink()


def test_layer_of_dead_channels() -> None:
    source = RunningStatistics(mean=np.zeros(2), var=np.zeros(2))
    moments: Moments = measure(np.zeros((3, 2, 4)))
    new = Shrink()(source, moments)
    assert new.var.tolist() == [0.0, 0.0]


def test_log_gamma_moments() -> None:
    special = pytest.importorskip("scipy.special")

    shape = np.geomspace(0.05, 1e9, 60)
    mean, variance = log_gamma_moments(shape)
    np.testing.assert_allclose(mean, special.digamma(shape) - np.log(shape), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(variance, special.polygamma(1, shape), rtol=1e-6)


def test_engine_agrees_with_accuracy_benchmark() -> None:
    # The accuracy benchmark uses one forward pass; the engine has batches of different sizes.
    torch = pytest.importorskip("torch")
    from benchmarks.accuracy.methods import exact_statistics
    from bn_ops import recalibrate
    from bn_ops.exporting import export
    from examples.digits.train import MnistResNet

    torch.manual_seed(0)
    network = MnistResNet(width=4).eval()
    stream = np.random.default_rng(0).random((12, 1, 28, 28), dtype=np.float32)
    model = export(network, torch.zeros(2, 1, 28, 28))
    done = recalibrate(model, [stream[:5], stream[5:6], stream[6:]], estimator=Shrink(), threads=1)
    expected = exact_statistics(network, stream, Shrink())
    assert len(done.statistics) == len(expected) == 9
    for name, found in done.statistics.items():
        # float32 convolutions of two libraries, nine layers deep
        scale = np.sqrt(expected[name].var)
        assert (np.abs(found.mean - expected[name].mean) <= 1e-4 * scale).all()
        np.testing.assert_allclose(found.var, expected[name].var, rtol=1e-3)
