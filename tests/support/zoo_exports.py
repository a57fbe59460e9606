"""The zoo as ONNX files: exported once per process, whoever asks."""

from __future__ import annotations

from functools import cache

import onnx

from bn_ops.exporting import export
from tests.support.zoo import ZOO, Animal

# Another number of samples than the tests run with.
EXPORTED_WITH = 3

_BY_NAME = {animal.name: animal for animal in ZOO}


@cache
def _exported(name: str) -> bytes:
    animal = _BY_NAME[name]
    proto = export(animal.build(), animal.inputs(EXPORTED_WITH))
    return bytes(proto.SerializeToString())


def exported_model(animal: Animal) -> onnx.ModelProto:
    """Return a fresh copy, which a test may change."""
    return onnx.load_model_from_string(_exported(animal.name))
