"""Generated digits, and a small network that reads them, made without a training framework.

Its convolutions are random, BatchNorm holds the exact moments of the source domain, and the head is
a ridge regression on the features. That suffices for these digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import bn_ops

__all__ = ["CLASSES", "error_of", "new_domain", "source_domain", "trained"]

_CHANNELS = (24, 48, 64)
_FEATURES = _CHANNELS[-1] * 3 * 3
_RIDGE = 30.0
_SHARPNESS = 20.0
"""Factor of the scores, which makes their softmax as certain as that of a trained network."""
_OPSET, _IR_VERSION = 17, 8
_BATCH = 100


def trained(images: NDArray[np.float32], labels: NDArray[np.int64]) -> onnx.ModelProto:
    """Return a network for images of shape (N, 1, 28, 28), fitted to their labels."""
    empty = _network(np.zeros((_FEATURES, CLASSES)), np.zeros(CLASSES))
    # All of the network's statistics are those of the source domain; the check would find that
    # the statistics of the empty network are not.
    fitted = bn_ops.recalibrate(
        empty, _batches(images), estimator="replace", allow_mismatch=True
    ).model
    features = np.concatenate([_run(_headless(fitted), batch) for batch in _batches(images)])
    known = np.c_[features.astype(np.float64), np.ones(len(features))]
    ridge = _RIDGE * np.eye(known.shape[1])
    weights = np.linalg.solve(known.T @ known + ridge, known.T @ np.eye(CLASSES)[labels])
    _set(fitted, head_weight=_SHARPNESS * weights[:-1], head_bias=_SHARPNESS * weights[-1])
    return fitted


def error_of(
    model: onnx.ModelProto, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    """Return the share of images that a network assigns to a wrong class."""
    scores = np.concatenate([_run(model, batch) for batch in _batches(images)])
    return float((scores.argmax(axis=1) != labels).mean())


def _batches(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def _run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"image": images})
    return np.asarray(found)


def _network(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    nodes, tensors = [], {}
    inputs, previous = 1, "image"
    for block, channels in enumerate(_CHANNELS):
        kernel = rng.normal(0, 1 / np.sqrt(inputs * 9), (channels, inputs, 3, 3))
        tensors[f"conv{block}.weight"] = kernel
        for name, value in (("gamma", 1.0), ("beta", 0.0), ("mean", 0.0), ("var", 1.0)):
            tensors[f"bn{block}.{name}"] = np.full(channels, value)
        parameters = [f"bn{block}.{name}" for name in ("gamma", "beta", "mean", "var")]
        pool = "AveragePool" if block else "MaxPool"
        nodes += [
            _node("Conv", [previous, f"conv{block}.weight"], f"conv{block}", pads=[1, 1, 1, 1]),
            _node("BatchNormalization", [f"conv{block}", *parameters], f"bn{block}"),
            _node("Relu", [f"bn{block}"], f"relu{block}"),
            _node(pool, [f"relu{block}"], f"pool{block}", kernel_shape=[2, 2], strides=[2, 2]),
        ]
        inputs, previous = channels, f"pool{block}"
    tensors |= {"head_weight": weight, "head_bias": bias}
    nodes += [
        _node("Flatten", [previous], "features"),
        _node("Gemm", ["features", "head_weight", "head_bias"], "scores"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [_tensor(name, value) for name, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _tensor(name: str, value: NDArray[np.float64]) -> onnx.TensorProto:
    return numpy_helper.from_array(value.astype(np.float32), name)


def _headless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose output are the features."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[-1]
    copy.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", _FEATURES])
    )
    kept = [one for one in copy.graph.initializer if not one.name.startswith("head_")]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _set(model: onnx.ModelProto, **tensors: NDArray[np.float64]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(_tensor(tensor.name, tensors[tensor.name]))


CLASSES = 10
_SIDE = 28
_DOT = 3  # pixels per dot of a glyph

# Rows of dots from top to bottom, in hexadecimal, for each digit.
_GLYPHS = (
    (0x0E, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0E),
    (0x04, 0x0C, 0x04, 0x04, 0x04, 0x04, 0x0E),
    (0x0E, 0x11, 0x01, 0x02, 0x04, 0x08, 0x1F),
    (0x1F, 0x02, 0x04, 0x02, 0x01, 0x11, 0x0E),
    (0x02, 0x06, 0x0A, 0x12, 0x1F, 0x02, 0x02),
    (0x1F, 0x10, 0x1E, 0x01, 0x01, 0x11, 0x0E),
    (0x06, 0x08, 0x10, 0x1E, 0x11, 0x11, 0x0E),
    (0x1F, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08),
    (0x0E, 0x11, 0x11, 0x0E, 0x11, 0x11, 0x0E),
    (0x0E, 0x11, 0x11, 0x0F, 0x01, 0x02, 0x0C),
)

Samples = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Images of shape (N, 1, 28, 28) with values 0…1, and their classes of shape (N,)."""


def source_domain(rng: np.random.Generator, count: int) -> Samples:
    """Return bright digits on black, with little noise."""
    images, labels = _digits(rng, count)
    return _noisy(rng, images, 0.05), labels


def new_domain(rng: np.random.Generator, count: int) -> Samples:
    """Return digits as a bad camera sees them: gray on gray, with a third of the contrast."""
    images, labels = _digits(rng, count)
    return _noisy(rng, 0.35 + 0.33 * images, 0.045), labels


def _noisy(
    rng: np.random.Generator, images: NDArray[np.float64], deviation: float
) -> NDArray[np.float32]:
    noise = rng.normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 1)[:, None].astype(np.float32)


def _digits(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    labels = rng.integers(0, CLASSES, count)
    images = np.stack([_drawn(rng, int(label)) for label in labels])
    for axis in (1, 2):  # a small blur
        images = (images + (np.roll(images, 1, axis) + np.roll(images, -1, axis)) / 2) / 2
    return images, labels


def _drawn(rng: np.random.Generator, label: int) -> NDArray[np.float64]:
    """Return one digit, moved, scaled, rotated and sheared at random."""
    dots = [[row >> place & 1 for place in range(4, -1, -1)] for row in _GLYPHS[label]]
    glyph = np.kron(np.array(dots, np.float64), np.ones((_DOT, _DOT)))
    scale, angle, shear = rng.uniform(0.8, 1.15), rng.normal(0, 0.12), rng.normal(0, 0.12)
    down, right = rng.uniform(-2.5, 2.5, 2)
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] - (_SIDE - 1) / 2
    y, x = rows - down, columns - right
    height, width = glyph.shape
    v = (y * np.cos(angle) + x * np.sin(angle)) / scale + height / 2
    u = (x * np.cos(angle) - y * np.sin(angle)) / scale + shear * y + width / 2
    inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
    places = (np.clip(v, 0, height - 1).astype(int), np.clip(u, 0, width - 1).astype(int))
    return np.asarray(glyph[places] * inside)
