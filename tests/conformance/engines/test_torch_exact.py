"""Exact recalibration of every network of the zoo, against the float64 oracle in torch."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bn_ops import recalibrate
from tests.support.torch_oracle import exact_statistics, observed_statistics, residual, stored
from tests.support.zoo import ZOO, ZooNetwork, split

SAMPLES = 11

# float32 activations against a float64 oracle, through up to ten layers
TOLERANCE = 2e-5

# Deliberately uneven: a batch of one sample, and a large last batch.
SPLITS = ([11], [1, 4, 6], [5, 1, 1, 1, 3])

SINGLE = [network for network in ZOO if not network.shared]
SHARED = [network for network in ZOO if network.shared]


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_statistics_equal_single_train_mode_batch(network: ZooNetwork) -> None:
    data = network.inputs(SAMPLES)
    wanted = exact_statistics(network.build(), data)
    for sizes in SPLITS:
        model = network.build()
        recalibrate(model, split(data, sizes))
        assert residual(stored(model), wanted) <= TOLERANCE, sizes


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_invariance_under_splits(network: ZooNetwork) -> None:
    data = network.inputs(SAMPLES)
    found = []
    for sizes in SPLITS:
        model = network.build()
        recalibrate(model, split(data, sizes))
        found.append(stored(model))
    for one, other in pairwise(found):
        assert residual(one, other) <= TOLERANCE


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_stored_statistics_match_eval_inputs(network: ZooNetwork) -> None:
    model = network.build()
    data = network.inputs(SAMPLES)
    recalibrate(model, split(data, [3, 8]))
    assert residual(stored(model), observed_statistics(model, data)) <= TOLERANCE


@pytest.mark.parametrize("network", SHARED, ids=str)
def test_shared_layers_pool_their_calls(network: ZooNetwork) -> None:
    data = network.inputs(SAMPLES)
    wanted = exact_statistics(network.build(), data, passes=60)
    model = network.build()
    done = recalibrate(model, split(data, [4, 7]), shared_passes=60, shared_tolerance=1e-6)
    assert residual(stored(model), wanted) <= TOLERANCE
    reported = [r for r in done.report.layers if r.residual_mean is not None]
    assert reported
    for report in reported:
        assert report.residual_mean is not None
        assert report.residual_mean <= 1e-6


def test_oracle_detects_train_mode_pass() -> None:
    """The tolerance is meaningful: the result of update_bn is far outside it."""
    network = next(a for a in ZOO if a.name == "residual")
    data = network.inputs(SAMPLES)
    model = network.build()
    torch.optim.swa_utils.update_bn(split(data, [4, 7]), model)
    assert residual(stored(model), exact_statistics(network.build(), data)) > 1e-2
