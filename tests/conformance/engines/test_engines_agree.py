"""The ONNX engine, the torch engine and the float64 oracle agree on every network of the zoo.

The results are folded and verified. A layer that is called several times becomes several ONNX
layers, each with its own statistics, but a single pooled torch layer, so it is only compared with
the oracle of the same engine.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch

import bn_ops
from tests.support.onnx_feeds import feeds_of
from tests.support.oracle import residual, stored_statistics, tapped_statistics
from tests.support.torch_oracle import exact_statistics
from tests.support.torch_oracle import residual as torch_residual
from tests.support.zoo import ZOO, ZooNetwork, split
from tests.support.zoo_exports import exported_model

# One xdist worker, which exports the zoo once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("zoo")]

SAMPLES = 12
CUT = [1, 5, 2, 4]

# The guarantee between the engines, and of each engine to float64.
AGREEMENT = 1e-4

SINGLE = [network for network in ZOO if not network.shared]
BY_NAME = {network.name: network for network in ZOO}


@cache
def adapted(name: str) -> bn_ops.Artifact:
    network = BY_NAME[name]
    model = exported_model(network)
    parts = split(network.inputs(SAMPLES), CUT)
    return bn_ops.adapt(
        model, [feeds_of(model, part) for part in parts], estimator="replace", threads=1
    )


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_onnx_engine_agrees_with_torch_oracle(network: ZooNetwork) -> None:
    found = {
        name: (torch.from_numpy(s.mean), torch.from_numpy(s.var))
        for name, s in adapted(network.name).statistics.items()
    }
    wanted = exact_statistics(network.build(), network.inputs(SAMPLES))
    reached = {name: value for name, value in wanted.items() if name in found}
    assert reached.keys() == found.keys()
    assert torch_residual(found, reached) <= AGREEMENT


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_engines_agree(network: ZooNetwork) -> None:
    module = network.build()
    result = bn_ops.recalibrate(module, split(network.inputs(SAMPLES), CUT))
    other = adapted(network.name).statistics
    for name, statistics in other.items():
        sigma = np.sqrt(statistics.var)
        mine = result.statistics[name]
        assert (np.abs(mine.mean - statistics.mean) <= AGREEMENT * sigma).all(), name
        assert (np.abs(mine.var - statistics.var) <= AGREEMENT * statistics.var).all(), name


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_stored_statistics_match_node_inputs(network: ZooNetwork) -> None:
    unfolded = adapted(network.name).unfolded
    feeds = feeds_of(unfolded, network.inputs(SAMPLES))
    stored, seen = stored_statistics(unfolded), tapped_statistics(unfolded, feeds)
    assert residual(stored, seen) <= AGREEMENT


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_folded_file_is_verified_and_not_larger(network: ZooNetwork) -> None:
    artifact = adapted(network.name)
    onnx.checker.check_model(artifact.model, full_check=True)
    assert artifact.report.parity is not None
    assert artifact.report.parity.passed
    assert len(artifact.model.graph.node) <= len(artifact.unfolded.graph.node)
    assert artifact.report.frozen.unchanged
