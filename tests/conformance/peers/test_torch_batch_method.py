"""method="batch" agrees with other tools up to rounding, except for dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from bn_ops import recalibrate
from bn_ops.core.estimators import Momentum, Prior
from bn_ops.errors import BatchShapeError, OptionError
from tests.support.peer_formulas import moving_average, precise_bn, reestimate
from tests.support.published_algorithms import paper_population_statistics
from tests.support.torch_oracle import residual, stored
from tests.support.zoo import ZOO, ZooNetwork, split

# Two float32 train-mode passes through up to ten layers, with different orders of operations.
TOLERANCE = 2e-4

SIZES = [4, 4, 3]

# Dropout differs on purpose, the peers ignore similar modules, and audio_1d has momentum 0.
COMPARABLE = [
    network
    for network in ZOO
    if len(network.shapes) == 1
    and network.name
    not in {"with_dropout", "frozen_lookalike", "audio_1d", "subclass_with_activation"}
    and not network.as_dict
]


def batches_of(network: ZooNetwork) -> list[torch.Tensor]:
    return [part[0] for part in split(network.inputs(sum(SIZES)), SIZES) if isinstance(part, tuple)]


@pytest.mark.parametrize("network", COMPARABLE, ids=str)
def test_mean_of_batches_equals_update_bn(network: ZooNetwork) -> None:
    peer, ours = network.build(), network.build()
    update_bn(batches_of(network), peer)
    recalibrate(ours, batches_of(network), method="batch", variance="mean_of_batches")
    assert residual(stored(ours), stored(peer)) <= TOLERANCE


@pytest.mark.parametrize("network", [a for a in COMPARABLE if not a.shared], ids=str)
def test_mean_of_batches_equals_aimet(network: ZooNetwork) -> None:
    peer, ours = network.build(), network.build()
    reestimate(peer, batches_of(network), len(SIZES))
    recalibrate(ours, batches_of(network), method="batch", variance="mean_of_batches")
    assert residual(stored(ours), stored(peer)) <= TOLERANCE


@pytest.mark.parametrize("network", [a for a in COMPARABLE if not a.shared], ids=str)
def test_population_equals_precise_bn(network: ZooNetwork) -> None:
    peer, ours = network.build().train(), network.build()
    precise_bn(peer, batches_of(network), len(SIZES))
    recalibrate(ours, batches_of(network), method="batch")
    assert residual(stored(ours), stored(peer)) <= TOLERANCE


@pytest.mark.parametrize("network", COMPARABLE, ids=str)
def test_momentum_equals_training(network: ZooNetwork) -> None:
    peer, ours = network.build(), network.build()
    moving_average(peer, batches_of(network), 0.1)
    recalibrate(
        ours,
        batches_of(network),
        method="batch",
        estimator=Momentum(0.1),
        variance="unbiased",
    )
    assert residual(stored(ours), stored(peer)) <= TOLERANCE


def test_case_of_fvcore() -> None:
    """The test case of fvcore: a single layer, equal batches, mean and variance over all."""
    torch.manual_seed(0)
    batches = [torch.randn(8, 3, 5, 5) * (i + 1) + i for i in range(4)]
    model = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate(model, batches, method="batch")
    everything = torch.cat(batches).double()
    mean, var = stored(model)["0"]
    torch.testing.assert_close(mean, everything.mean([0, 2, 3]))
    torch.testing.assert_close(var, everything.var([0, 2, 3], correction=0))


def test_case_of_torch() -> None:
    """The test case of update_bn in torch, with tolerance 1e-6 instead of 0.1 for variances."""
    torch.manual_seed(1)
    batches = [torch.rand(10, 4) for _ in range(5)]
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.3))
    recalibrate(model, batches, method="batch", variance="mean_of_batches")
    wanted = paper_population_statistics([batch.double().numpy() for batch in batches])
    mean, var = stored(model)["0"]
    torch.testing.assert_close(mean, torch.from_numpy(wanted.mean), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(var, torch.from_numpy(wanted.var), rtol=1e-6, atol=0)


def test_unbiased_divides_by_count_minus_one() -> None:
    x = torch.randn(6, 2)
    model = nn.Sequential(nn.BatchNorm1d(2))
    recalibrate(model, [x[:4], x[4:]], method="batch", variance="unbiased")
    torch.testing.assert_close(stored(model)["0"][1], x.double().var(0), rtol=1e-6, atol=0)


def test_other_estimators_use_the_whole_stream() -> None:
    x = torch.randn(6, 2)
    model = nn.Sequential(nn.BatchNorm1d(2))
    recalibrate(model, [x[:4], x[4:]], method="batch", estimator=Prior(6))
    wanted = 0.5 + 0.5 * x.double().var(0, correction=0)
    torch.testing.assert_close(stored(model)["0"][1], wanted, rtol=1e-6, atol=0)


def test_single_value_per_channel() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    batches = [torch.randn(3, 2), torch.randn(1, 2)]
    before = stored(copy.deepcopy(model))
    with pytest.raises(BatchShapeError, match="batch 1"):
        recalibrate(model, batches, method="batch", variance="mean_of_batches")
    assert residual(stored(model), before) == 0
    recalibrate(model, batches, method="batch")
    wanted = torch.cat(batches).double().var(0, correction=0)
    torch.testing.assert_close(stored(model)["0"][1], wanted, rtol=1e-6, atol=0)


def test_unknown_variance() -> None:
    with pytest.raises(OptionError, match="mean_of_batches"):
        recalibrate(  # type: ignore[call-overload]
            nn.Sequential(nn.BatchNorm1d(2)),
            [torch.randn(3, 2)],
            method="batch",
            variance="biased",
        )
