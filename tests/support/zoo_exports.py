"""The zoo as ONNX models, each exported once per process."""

from __future__ import annotations

from functools import cache

import onnx

from bn_ops.exporting import export
from tests.support.zoo import ZOO, ZooNetwork

# Differs from the number of samples in the tests.
EXPORTED_WITH = 3

_BY_NAME = {network.name: network for network in ZOO}


@cache
def _exported(name: str) -> bytes:
    network = _BY_NAME[name]
    proto = export(network.build(), network.inputs(EXPORTED_WITH))
    return bytes(proto.SerializeToString())


def exported_model(network: ZooNetwork) -> onnx.ModelProto:
    """Return a new copy, which the test may modify."""
    return onnx.load_model_from_string(_exported(network.name))
