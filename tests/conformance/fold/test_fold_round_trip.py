"""The test networks of the onnx package: folded files run and are equivalent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.folding import Folded, fold
from tests.conformance.fold.building import Array
from tests.support.onnx_run import run_onnx

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# Relative to the largest output value; float32, up to 121 layers.
TOLERANCE = 1e-4

# Input index of BatchNormalization → minimum and range of the random values.
SLOTS = {1: (0.5, 1.0), 2: (-0.5, 1.0), 3: (-0.5, 1.0), 4: (0.5, 1.5)}

# All in one xdist worker.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("light")]


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_folded_network_is_equivalent(path: Path) -> None:
    model = onnx.load(path)
    with_layers = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    if with_layers:
        model = drawn(model)
    folded = fold(model)
    assert folded.kept == ()
    found = run(folded.model)
    if with_layers:
        assert error(found, run(model)) <= TOLERANCE
        # Equal outputs for all classes would make the comparison meaningless.
        assert all(output.std() > 0.01 * np.abs(output).max() for output in found)
    else:
        assert folded == Folded(model=model, layers=())
        assert all(np.isfinite(output).all() for output in found)


def drawn(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the weights by random values; the files fill each tensor with a constant.

    A final softmax is removed: on random weights it would saturate at one class.
    """
    random = np.random.default_rng(0)
    slots = {
        name: SLOTS[slot]
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        for slot, name in enumerate(node.input)
        if slot
    }
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    filled = [n for n in model.graph.node if n.op_type == "ConstantOfShape"]
    for node in filled:
        name, shape = node.output[0], tuple(shapes[node.input[0]])
        low, width = slots.get(name, (0.0, 0.0))
        array = low + width * random.random(shape) if width else gaussian(random, shape)
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        model.graph.node.remove(node)
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        last.op_type = "Identity"
        del last.attribute[:]
    return model


def gaussian(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw weights that preserve the scale of activations (He initialization)."""
    fan_in = max(1, int(np.prod(shape[1:])))
    drawn: Array = random.standard_normal(shape) * np.sqrt(2 / fan_in)
    return drawn


def run(model: onnx.ModelProto) -> list[Array]:
    (info,) = model_inputs(model)
    assert info.shape is not None
    shape = [size if isinstance(size, int) else 1 for size in info.shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return run_onnx(model, {info.name: x})


def error(found: list[Array], wanted: list[Array]) -> float:
    pairs = [
        (f.astype(np.float64), w.astype(np.float64)) for f, w in zip(found, wanted, strict=True)
    ]
    return max(float(np.abs(f - w).max() / np.abs(w).max()) for f, w in pairs)
