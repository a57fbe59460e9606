"""The published algorithms agree with the independent implementation of torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bn_ops.core.statistics import RunningStatistics
from tests.support.published_algorithms import (
    batch_statistics,
    moving_average,
    normalize,
    paper_population_statistics,
    population_statistics,
    train_step,
)

RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(size=(4, 3, 5)) + i for i in range(3)]
SCALE, SHIFT = RNG.normal(size=3), RNG.normal(size=3)


def layer(momentum: float | None = 0.1) -> nn.BatchNorm1d:
    built = nn.BatchNorm1d(3, momentum=momentum).double()
    with torch.no_grad():
        built.weight.copy_(torch.from_numpy(SCALE))
        built.bias.copy_(torch.from_numpy(SHIFT))
    return built


def test_algorithm_1_equals_train_mode() -> None:
    wanted = layer().train()(torch.from_numpy(BATCHES[0])).detach().numpy()
    found, used = train_step(BATCHES[0], scale=SCALE, shift=SHIFT, eps=1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(used.var, BATCHES[0].var(axis=(0, 2)))


def test_algorithm_2_equals_eval_mode() -> None:
    built = layer().eval()
    built.get_buffer("running_mean").copy_(torch.tensor([0.5, -1.0, 2.0]))
    built.get_buffer("running_var").copy_(torch.tensor([0.5, 1.0, 2.0]))
    statistics = RunningStatistics(mean=np.array([0.5, -1, 2]), var=np.array([0.5, 1, 2]))
    found = normalize(BATCHES[1], statistics, scale=SCALE, shift=SHIFT, eps=1e-5)
    wanted = built(torch.from_numpy(BATCHES[1])).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_population_statistics_equal_cumulative_average() -> None:
    built = layer(momentum=None).train()
    for batch in BATCHES:
        built(torch.from_numpy(batch))
    found = paper_population_statistics(BATCHES)
    np.testing.assert_allclose(found.mean, built.get_buffer("running_mean").numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.var, built.get_buffer("running_var").numpy(), rtol=1e-12)


def test_moving_averages_equal_momentum() -> None:
    built = layer(momentum=0.3).train()
    for batch in BATCHES:
        built(torch.from_numpy(batch))
    start = RunningStatistics(mean=np.zeros(3), var=np.ones(3))
    found = moving_average(start, BATCHES, 0.3)
    np.testing.assert_allclose(found.mean, built.get_buffer("running_mean").numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.var, built.get_buffer("running_var").numpy(), rtol=1e-12)


def test_exact_statistics_use_one_batch() -> None:
    exact = population_statistics(BATCHES)
    whole = batch_statistics(np.concatenate(BATCHES))
    np.testing.assert_array_equal(exact.var, whole.var)
    assert (exact.var > paper_population_statistics(BATCHES).var).all()
