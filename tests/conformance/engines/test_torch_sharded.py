"""Shards of a stream on two copies of a module give the same result as one frontier."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from bn_ops.core.estimators import Replace
from bn_ops.core.frontier import ShardedFrontier, commit_layers
from bn_ops.engines.torch import TorchFrontier
from bn_ops.engines.torch.layers import find_layers, layer_info
from bn_ops.torch_modules.arguments import read_items
from tests.support.zoo import ZOO, ZooNetwork, split

NETWORKS = [a for a in ZOO if a.name in {"residual", "dense", "inception", "double_input"}]


def frontier(network: ZooNetwork, parts: list[object]) -> TorchFrontier:
    model = network.build()
    items = read_items(model, parts, select=None, convert=True)
    return TorchFrontier(model, items, layers=find_layers(model))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_shards_equal_the_whole_stream(network: ZooNetwork) -> None:
    parts: list[object] = list(split(network.inputs(9), [2, 4, 3]))
    infos = {layer.name: layer_info(layer) for layer in find_layers(network.build())}
    with frontier(network, parts) as whole:
        wanted = commit_layers(whole, infos, Replace())
    with ExitStack() as stack:
        shards = [stack.enter_context(frontier(network, part)) for part in (parts[:1], parts[1:])]
        found = commit_layers(ShardedFrontier(shards), infos, Replace())
    for name, settlement in wanted.items():
        assert found[name].moments.samples == settlement.moments.samples
        np.testing.assert_allclose(
            found[name].statistics.mean, settlement.statistics.mean, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(found[name].statistics.var, settlement.statistics.var, rtol=1e-5)


def test_frontier_restores_its_module() -> None:
    network = NETWORKS[0]
    model = network.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = list(split(network.inputs(4), [2, 2]))
    items = read_items(model, parts, select=None, convert=True)
    with TorchFrontier(model, items, layers=find_layers(model)) as entered:
        assert entered.advance()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
