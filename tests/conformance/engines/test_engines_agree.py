"""Every network of the zoo: the ONNX engine, the torch engine and the float64 oracle say the same.

And what comes out is folded and verified. Layers that are called several times are several layers
in ONNX, each with statistics of its own, and one pooled layer in torch; so they are compared with
the oracle of their own engine only.
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

# One process for all that exports the zoo.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("zoo")]

SAMPLES = 12
CUT = [1, 5, 2, 4]

# The promise between the engines, and of each to float64.
AGREEMENT = 1e-4

SINGLE = [network for network in ZOO if not network.shared]
BY_NAME = {network.name: network for network in ZOO}


@cache
def adapted(name: str) -> bn_ops.Artifact:
    network = BY_NAME[name]
    model = exported_model(network)
    parts = split(network.inputs(SAMPLES), CUT)
    return bn_ops.adapt(model, [feeds_of(model, part) for part in parts], threads=1)


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_the_onnx_engine_equals_the_torch_float64_oracle(network: ZooNetwork) -> None:
    found = {
        name: (torch.from_numpy(s.mean), torch.from_numpy(s.var))
        for name, s in adapted(network.name).statistics.items()
    }
    wanted = exact_statistics(network.build(), network.inputs(SAMPLES))
    reached = {name: value for name, value in wanted.items() if name in found}
    assert reached.keys() == found.keys()
    assert torch_residual(found, reached) <= AGREEMENT


@pytest.mark.parametrize("network", SINGLE, ids=str)
def test_the_two_engines_agree(network: ZooNetwork) -> None:
    module = network.build()
    result = bn_ops.recalibrate(module, split(network.inputs(SAMPLES), CUT))
    other = adapted(network.name).statistics
    for name, statistics in other.items():
        sigma = np.sqrt(statistics.var)
        mine = result.statistics[name]
        assert (np.abs(mine.mean - statistics.mean) <= AGREEMENT * sigma).all(), name
        assert (np.abs(mine.var - statistics.var) <= AGREEMENT * statistics.var).all(), name


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_what_is_stored_is_what_each_node_receives(network: ZooNetwork) -> None:
    unfolded = adapted(network.name).unfolded
    feeds = feeds_of(unfolded, network.inputs(SAMPLES))
    stored, seen = stored_statistics(unfolded), tapped_statistics(unfolded, feeds)
    assert residual(stored, seen) <= AGREEMENT


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_the_folded_file_is_valid_verified_and_not_larger(network: ZooNetwork) -> None:
    artifact = adapted(network.name)
    onnx.checker.check_model(artifact.model, full_check=True)
    assert artifact.report.parity is not None
    assert artifact.report.parity.passed
    assert len(artifact.model.graph.node) <= len(artifact.unfolded.graph.node)
    assert artifact.report.frozen.unchanged
