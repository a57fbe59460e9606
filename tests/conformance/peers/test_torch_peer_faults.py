"""Faults of other tools that this package does not have.

The first assertion of each test requires the fault in the other tool, so that the test fails once
the fault is fixed there.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

import bn_ops
from bn_ops import recalibrate
from bn_ops.errors import BatchNotFiniteError, StreamEmptyError
from tests.support.peer_formulas import moving_average, precise_bn, reestimate, without_len
from tests.support.torch_oracle import exact_statistics, residual, stored
from tests.support.zoo_blocks import FrozenBatchNorm2d


def one_layer(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels))


def relative_var_error(model: nn.Module, x: torch.Tensor) -> float:
    """Return the relative error of the stored variance to the population variance, in float64."""
    var = stored(model)["0"][1]
    axes = [0, *range(2, x.ndim)]
    return float((var / x.double().var(axes, correction=0) - 1).abs().max())


def test_dropout_stays_off() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 3) + 1
    peer, ours = (nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)) for _ in range(2))
    update_bn([x], peer)
    recalibrate(ours, [x])
    # E[(2·b·x)²] - E[x]² = 2·(1 + 1) - 1 = 3 instead of 1.
    assert float(stored(peer)["1"][1].min()) > 2.5
    torch.testing.assert_close(stored(ours)["1"][1], x.double().var(0, correction=0))


def test_frozen_children_stay_in_eval_mode() -> None:
    def network() -> nn.Sequential:
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).train()
        model[1].eval()
        return model

    x = torch.randn(4, 1, 3, 3)
    peer, ours = network(), network()
    update_bn([x], peer)
    recalibrate(ours, [x])
    assert peer[1].training
    assert ours.training
    assert not ours[1].training


def test_smaller_last_batch_counts_by_samples() -> None:
    torch.manual_seed(1)
    x = torch.randn(17, 1, 4, 4)
    x[16] += 2
    batches = [x[:8], x[8:16], x[16:]]
    peer, ours = one_layer(), one_layer()
    update_bn(batches, peer)
    recalibrate(ours, batches)
    shift = (stored(peer)["0"][0] - x.double().mean()).abs() / x.double().std()
    assert float(shift) > 0.12
    assert float((stored(ours)["0"][0] - x.double().mean()).abs()) < 1e-7


@pytest.mark.parametrize("peer_name", ["update_bn", "reestimate", "moving_average"])
def test_variance_between_batches_is_included(peer_name: str) -> None:
    torch.manual_seed(2)
    levels = torch.linspace(-5, 5, 16)
    batches = [torch.randn(16, 1, 8, 8) + level for level in levels]
    peer, ours = one_layer().train(), one_layer()
    if peer_name == "update_bn":
        update_bn(batches, peer)
    elif peer_name == "reestimate":
        reestimate(peer, batches, 16)
    else:
        moving_average(peer, batches, 0.1)
    recalibrate(ours, batches)
    assert float(stored(peer)["0"][1]) < 1.2
    everything = torch.cat(batches)
    assert float(everything.var()) > 10
    assert relative_var_error(ours, everything) < 1e-6


def test_empty_stream_changes_nothing() -> None:
    peer, ours = one_layer(2), one_layer(2)
    for model in (peer, ours):
        model[0].get_buffer("running_mean").fill_(3.0)
    update_bn([], peer)
    assert torch.equal(peer[0].get_buffer("running_mean"), torch.zeros(2))
    for method in ("exact", "batch"):
        with pytest.raises(StreamEmptyError):
            recalibrate(ours, [], method=method)
        assert torch.equal(ours[0].get_buffer("running_mean"), torch.full((2,), 3.0))
    aimet = one_layer(2)
    reestimate(aimet, [], 0)
    assert bool(aimet[0].get_buffer("running_mean").isnan().all())


def test_variance_with_large_mean() -> None:
    torch.manual_seed(3)
    x = torch.randn(32, 1, 32, 32) + 1000
    peer, ours = one_layer().train(), one_layer()
    precise_bn(peer, [x[:16], x[16:]], 2)
    recalibrate(ours, [x[:16], x[16:]])
    assert relative_var_error(peer, x) > 0.01
    # The remaining error is the rounding of 1.0 to the float32 buffer.
    assert relative_var_error(ours, x) < 1e-6


def test_failure_restores_momentum_and_hooks() -> None:
    x = torch.randn(4, 1, 3, 3)
    peer, ours = one_layer().train(), one_layer().train()
    with pytest.raises(AssertionError):
        precise_bn(peer, [x], 2)
    assert peer[0].momentum == 1.0
    assert peer[0]._forward_pre_hooks
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(BatchNotFiniteError):
        recalibrate(ours, [x, x * float("nan")])
    assert ours[0].momentum == 0.1
    assert not ours[0]._forward_pre_hooks
    assert ours[0].training
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_iterator_is_read_once() -> None:
    x = [torch.randn(4, 1, 3, 3), torch.randn(2, 1, 3, 3)]
    with pytest.raises(TypeError):
        reestimate(one_layer(), without_len(x), 2)  # type: ignore[arg-type]
    ours = one_layer()
    recalibrate(ours, without_len(x))
    assert relative_var_error(ours, torch.cat(x)) < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.1, None])
def test_source_statistics_have_no_weight(momentum: float | None) -> None:
    torch.manual_seed(4)
    batches = [torch.randn(8, 1, 4, 4) * 2 + 5 for _ in range(10)]

    def network() -> nn.Sequential:
        model = nn.Sequential(nn.BatchNorm2d(1, momentum=momentum))
        model[0].get_buffer("running_mean").fill_(-100.0)
        model[0].get_buffer("num_batches_tracked").fill_(1000)
        return model

    peer, ours = network().train(), network()
    with torch.no_grad():
        for batch in batches:
            peer(batch)
    # The source mean is 105 σ away on purpose.
    recalibrate(ours, batches, allow_mismatch=True)
    everything = torch.cat(batches).double()
    assert float(stored(peer)["0"][0] - everything.mean()) < -30
    assert float((stored(ours)["0"][0] - everything.mean()).abs()) < 1e-5


def test_nan_in_buffer_is_overwritten() -> None:
    x = torch.randn(8, 1, 4, 4)
    peer, ours = (nn.Sequential(nn.BatchNorm2d(1, momentum=1.0)) for _ in range(2))
    for model in (peer, ours):
        model[0].get_buffer("running_mean").fill_(float("nan"))
    peer(x)
    recalibrate(ours, [x])
    assert bool(stored(peer)["0"][0].isnan().all())
    assert float((stored(ours)["0"][0] - x.double().mean()).abs()) < 1e-7


def test_nan_pixel_names_its_batch() -> None:
    batches = [torch.randn(4, 1, 3, 3) for _ in range(3)]
    batches[1][2, 0, 1, 1] = float("nan")
    peer, ours = one_layer(), one_layer()
    update_bn(batches, peer)
    assert bool(stored(peer)["0"][0].isnan().all())
    before = stored(ours)
    with pytest.raises(BatchNotFiniteError, match="batch 1") as caught:
        recalibrate(ours, batches)
    assert caught.value.details() == {"batch": 1, "input": "input"}
    assert residual(stored(ours), before) == 0


def test_single_value_per_channel() -> None:
    torch.manual_seed(5)
    x = torch.randn(6, 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        update_bn(list(torch.split(x, 1)), nn.Sequential(nn.BatchNorm1d(4)))
    ours = nn.Sequential(nn.BatchNorm1d(4))
    recalibrate(ours, list(torch.split(x, 1)))
    torch.testing.assert_close(stored(ours)["0"][1], x.double().var(0, correction=0))


def test_frozen_batchnorm_is_found() -> None:
    torch.manual_seed(6)
    x = torch.randn(8, 2, 4, 4) * 3 + 1
    peer, ours = nn.Sequential(FrozenBatchNorm2d(2)), nn.Sequential(FrozenBatchNorm2d(2))
    update_bn([x], peer)
    assert torch.equal(peer[0].get_buffer("running_var"), torch.ones(2))
    recalibrate(ours, [x])
    assert relative_var_error(ours, x) < 1e-6


class Functional(nn.Module):
    """A network that calls the functional form with its own buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(2))
        self.register_buffer("sigma2", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, self.get_buffer("mu"), self.get_buffer("sigma2"))


def test_functional_batch_norm_and_its_export() -> None:
    torch.manual_seed(7)
    x = torch.randn(8, 2, 4, 4) * 3 + 1
    peer = Functional()
    update_bn([x], peer)
    assert torch.equal(peer.get_buffer("sigma2"), torch.ones(2))
    done = bn_ops.recalibrate(bn_ops.export(Functional(), x), [x.numpy()])
    wanted = x.double().var([0, 2, 3], correction=0).numpy()
    np.testing.assert_allclose(done.statistics["batch_norm"].var, wanted, rtol=1e-6)
    own = bn_ops.recalibrate(Functional(), [x])
    np.testing.assert_allclose(own.statistics["batch_norm"].var, wanted, rtol=1e-6)


def test_untracked_layers_are_adopted_on_request() -> None:
    torch.manual_seed(8)
    x = torch.randn(8, 2, 4, 4) * 3 + 1
    untracked = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))
    peer = copy.deepcopy(untracked)
    update_bn([x], peer)
    assert "0.running_mean" not in peer.state_dict()
    with pytest.raises(bn_ops.BnOpsError, match="adopt_untracked"):
        recalibrate(untracked, [x])
    done = recalibrate(untracked, [x], adopt_untracked=True)
    assert relative_var_error(untracked, x) < 1e-6
    alone = untracked.eval()(x[:1])
    torch.testing.assert_close(alone, untracked(x)[:1])
    done.undo()
    assert not untracked[0].track_running_stats
    assert list(untracked.state_dict()) == ["0.weight", "0.bias"]


class Detour(nn.Module):
    """A network with an unreached layer."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
        self.unused.get_buffer("running_mean").fill_(7.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)  # type: ignore[no-any-return]


def test_unreached_layer_is_kept_and_reported() -> None:
    x = torch.randn(4, 1, 3, 3)
    peer, ours = Detour(), Detour()
    update_bn([x], peer)
    assert float(peer.unused.get_buffer("running_mean")) == 0.0
    for method in ("exact", "batch"):
        done = recalibrate(ours, [x], method=method)
        assert float(ours.unused.get_buffer("running_mean")) == 7.0
        statuses = {layer.name: layer.status for layer in done.report.layers}
        assert statuses == {"used": "recalibrated", "unused": "unreached"}


def test_invariance_under_memory_layout() -> None:
    torch.manual_seed(9)
    x = torch.randn(64, 2, 128, 128) + 300
    last = x.contiguous(memory_format=torch.channels_last)
    peer, ours = one_layer(2), one_layer(2)
    update_bn([last], peer)
    recalibrate(ours, [last])
    assert relative_var_error(peer, x) > 1e-3
    assert relative_var_error(ours, x) < 1e-6


def test_shared_layer_pools_its_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(x) + self.bn(3 * x + 4)  # type: ignore[no-any-return]

    torch.manual_seed(10)
    x = torch.randn(64, 1)
    peer, ours = Shared(), Shared()
    reestimate(peer, [x], 1)
    done = recalibrate(ours, [x[:20], x[20:]])
    both = torch.cat([x, 3 * x + 4]).double()
    assert float((stored(peer)["bn"][0] - both.mean()).abs()) > 1
    assert float((stored(ours)["bn"][0] - both.mean()).abs()) < 1e-6
    assert done.report.layers[0].residual_mean == pytest.approx(0, abs=1e-9)


def test_train_mode_differs_from_deployed_network() -> None:
    torch.manual_seed(11)
    layers = [m for _ in range(4) for m in (nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU())]
    model = nn.Sequential(*layers)
    x = torch.randn(64, 2, 12, 12)
    wanted = exact_statistics(model, x)
    peer, precise, ours = copy.deepcopy(model), copy.deepcopy(model).train(), copy.deepcopy(model)
    batches = list(torch.split(x, 2))
    update_bn(batches, peer)
    precise_bn(precise, batches, len(batches))
    recalibrate(ours, batches)
    assert residual(stored(peer), wanted) > 0.02
    assert residual(stored(precise), wanted) > 0.02
    assert residual(stored(ours), wanted) < 1e-5
