"""Functional calls of batch_norm are treated as layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._C import _len_torch_function_stack
from torch.nn import functional

import bn_ops
from bn_ops import recalibrate
from bn_ops.core.options import Budget
from bn_ops.engines.torch.functional import may_be_functional
from bn_ops.engines.torch.layers import find_layers
from bn_ops.errors import EngineError, ModelUnsupportedError, ModelWithoutBatchNormError
from tests.support.torch_oracle import exact_statistics


class Norm(nn.Module):
    """A custom BatchNorm with its own buffer names, through either form of the call."""

    def __init__(self, channels: int, *, operator: bool, training: bool = False) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(channels))
        self.register_buffer("sigma2", torch.ones(channels))
        self.gain = nn.Parameter(torch.rand(channels) + 0.5)
        self.operator, self.always = operator, training

    def forward(self, x: torch.Tensor) -> Any:
        mu, sigma2 = self.get_buffer("mu"), self.get_buffer("sigma2")
        if self.operator:
            return torch.batch_norm(
                x, self.gain, None, mu, sigma2, self.always, 0.1, 1e-3, torch.backends.cudnn.enabled
            )
        return functional.batch_norm(
            x, running_mean=mu, running_var=sigma2, weight=self.gain, eps=1e-3, training=self.always
        )


def network(kind: Any) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), kind(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), kind(4)
    )
    return model.eval()


def images(samples: int = 12) -> torch.Tensor:
    return torch.randn(samples, 1, 9, 9, generator=torch.Generator().manual_seed(1)) * 2 + 1


def oracle() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the statistics of the same network with modules instead of calls."""
    model = network(lambda channels: nn.BatchNorm2d(channels, eps=1e-3))
    for name, norm in network(lambda c: Norm(c, operator=False)).named_modules():
        if isinstance(norm, Norm):
            model.get_submodule(name).weight = norm.gain
    # The two kinds draw different random numbers, so the convolutions are copied.
    like = network(lambda c: Norm(c, operator=False))
    for index in (0, 3):
        model[index] = like[index]
    return exact_statistics(model, images())


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("options", [{}, {"budget": Budget(memory_bytes=0)}], ids=str)
def test_exact_statistics(*, operator: bool, options: dict[str, Any]) -> None:
    model = network(lambda c: Norm(c, operator=operator))
    before = copy.deepcopy(model.state_dict())
    done = recalibrate(model, list(torch.split(images(), 5)), compare=True, **options)
    for name, (mean, var) in oracle().items():
        found = done.statistics[name]
        torch.testing.assert_close(torch.from_numpy(found.mean), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(found.var), var, rtol=1e-5, atol=0)
    assert [layer.name for layer in done.report.layers] == ["1", "4", "5"]
    assert {layer.status for layer in done.report.layers} == {"recalibrated"}
    assert all(layer.activations is not None for layer in done.report.layers)
    assert done.report.frozen.unchanged
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, before[n])]
    assert changed == [
        "1.mu", "1.sigma2", "4.running_mean", "4.running_var", "5.mu", "5.sigma2",
    ]  # fmt: skip
    done.undo()
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_batch_method() -> None:
    x = images()
    model = nn.Sequential(Norm(1, operator=False))
    done = recalibrate(model, [x[:5], x[5:]], method="batch")
    torch.testing.assert_close(
        torch.from_numpy(done.statistics["0"].var), x.double().var([0, 2, 3], correction=0)
    )


def test_names_match_the_export() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("a", "b"):
                self.register_buffer(f"{name}_mean", torch.zeros(2))
                self.register_buffer(f"{name}_var", torch.ones(2))

        def forward(self, x: torch.Tensor) -> Any:
            y = functional.batch_norm(x, self.get_buffer("a_mean"), self.get_buffer("a_var"))
            return functional.batch_norm(
                y.relu(), self.get_buffer("b_mean"), self.get_buffer("b_var")
            )

    x = torch.randn(9, 2, 5)
    exported = bn_ops.recalibrate(bn_ops.export(Twice().eval(), x[:2]), [x.numpy()])
    own = recalibrate(Twice(), [x[:4], x[4:]])
    assert list(own.statistics) == list(exported.statistics) == ["batch_norm", "batch_norm#2"]
    for name, found in own.statistics.items():
        torch.testing.assert_close(found.mean, exported.statistics[name].mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["exact", "batch"])
def test_patterns_exclude_functional_layers(method: str) -> None:
    model = network(lambda c: Norm(c, operator=False))
    done = recalibrate(model, [images()], layers=["!1"], method=method)
    assert {layer.name: layer.status for layer in done.report.layers} == {
        "1": "excluded",
        "4": "recalibrated",
        "5": "recalibrated",
    }
    assert not any("functional" in warning for warning in done.report.warnings)


def test_call_in_training_mode() -> None:
    model = nn.Sequential(Norm(1, operator=False, training=True))
    with pytest.raises(ModelWithoutBatchNormError, match="normalizes by each batch"):
        recalibrate(model, [images()])
    assert torch.equal(model[0].get_buffer("mu"), torch.zeros(1))


class Sometimes(nn.Module):
    """A call that the first batch does not reach, and a call with a tensor outside the buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)
        self.late = Norm(2, operator=False)
        self.plain = (torch.zeros(2), torch.ones(2))

    def forward(self, x: torch.Tensor) -> Any:
        y = self.bn(x)
        if float(x.mean()) > 2:
            y = self.late(y)
        return functional.batch_norm(y, *self.plain)


@pytest.mark.parametrize("method", ["exact", "batch"])
def test_unsupported_calls_are_named(method: str) -> None:
    x = torch.randn(6, 2)
    model = Sometimes()
    done = recalibrate(model, [x, x + 5], method=method)
    assert list(done.statistics) == ["bn"]
    (warning,) = (text for text in done.report.warnings if "functional" in text)
    assert "late.mu" in warning
    assert "an unregistered tensor" in warning
    assert torch.equal(model.late.get_buffer("mu"), torch.zeros(2))


def test_no_search_without_candidate_buffers() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert not may_be_functional(plain, find_layers(plain))
    assert may_be_functional(Norm(2, operator=True), [])


@pytest.mark.parametrize("method", ["exact", "batch"])
def test_layer_with_explicit_statistics(method: str) -> None:
    torch.manual_seed(0)
    untracked = nn.BatchNorm2d(1, track_running_stats=False)
    model = nn.Sequential(untracked, Norm(1, operator=False))
    done = recalibrate(model, [images()], method=method, adopt_untracked=True)
    assert list(done.statistics) == ["0", "1"]
    assert not any("functional" in warning for warning in done.report.warnings)


def test_meta_device() -> None:
    with torch.device("meta"):
        model = network(lambda channels: Norm(channels, operator=False))
    ran: list[object] = []
    with pytest.raises(ModelUnsupportedError, match="meta"):
        recalibrate(model, [images()], call=lambda _, batch: ran.append(batch))
    assert not ran


def test_failing_forward_in_search() -> None:
    model = nn.Sequential(Norm(1, operator=False), nn.Linear(3, 3))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(EngineError, match="batch 0"):
        recalibrate(model, [images()])
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert _len_torch_function_stack() == 0
