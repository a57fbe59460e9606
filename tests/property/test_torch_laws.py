"""Laws of the torch engine: order, splits, undo, and restoration after a failure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bn_ops import recalibrate
from bn_ops.errors import EngineError
from tests.support.torch_oracle import residual, stored
from tests.support.zoo import ZOO, ZooNetwork, split

NETWORKS = [
    a for a in ZOO if a.name in {"residual", "dense", "unet", "mlp", "double_input", "audio_1d"}
]
SAMPLES = 8
TOLERANCE = 2e-5

networks = st.sampled_from(NETWORKS)
orders = st.permutations(range(SAMPLES))


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    """Draw batch sizes that sum to the number of samples."""
    cuts = sorted(draw(st.sets(st.integers(1, SAMPLES - 1))))
    return [b - a for a, b in zip([0, *cuts], [*cuts, SAMPLES], strict=True)]


def permuted(network: ZooNetwork, order: list[int]) -> Any:
    inputs = network.inputs(SAMPLES)
    assert isinstance(inputs, tuple)
    return tuple(tensor[order] for tensor in inputs)


@given(network=networks, order=orders, sizes=splits())
@settings(max_examples=20)
def test_invariance_under_order_and_splits(
    network: ZooNetwork, order: list[int], sizes: list[int]
) -> None:
    one, other = network.build(), network.build()
    recalibrate(one, [network.inputs(SAMPLES)])
    recalibrate(other, split(permuted(network, order), sizes))
    assert residual(stored(other), stored(one)) <= TOLERANCE


@given(network=networks, sizes=splits(), method=st.sampled_from(["exact", "batch"]))
@settings(max_examples=20)
def test_undo_restores_every_bit(network: ZooNetwork, sizes: list[int], method: str) -> None:
    model = network.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = recalibrate(model, split(network.inputs(SAMPLES), sizes), method=method)
    assert done.report.frozen.unchanged
    done.undo()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(network=networks, sizes=splits(), operator=st.integers(0, 40), data=st.data())
@settings(max_examples=20)
def test_failure_restores_the_module(
    network: ZooNetwork, sizes: list[int], operator: int, data: st.DataObject
) -> None:
    failing = data.draw(st.integers(0, len(sizes) - 1))
    model = network.build()
    modules = list(model.modules())
    called = [module for module in modules if not isinstance(module, nn.ModuleList)]
    victim = called[operator % len(called)]
    runs = {"count": 0}

    def fail(*_: Any) -> None:
        runs["count"] += 1
        if runs["count"] > failing:
            raise RuntimeError("failure in a forward pass")

    handle = victim.register_forward_pre_hook(fail)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in modules]
    try:
        with pytest.raises(EngineError):
            recalibrate(model, split(network.inputs(SAMPLES), sizes))
    finally:
        handle_alive = handle.id in victim._forward_pre_hooks
    assert handle_alive
    assert hooks == [len(module._forward_pre_hooks) for module in modules]
    assert not any(module.training for module in modules)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(network=networks, sizes=splits())
@settings(max_examples=10)
def test_determinism(network: ZooNetwork, sizes: list[int]) -> None:
    found = []
    for _ in range(2):
        model = network.build()
        recalibrate(model, split(network.inputs(SAMPLES), sizes))
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
