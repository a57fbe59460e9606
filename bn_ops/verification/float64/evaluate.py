"""Evaluate one model in float64."""

from __future__ import annotations

import math
import warnings
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from bn_ops.core.signature import is_floating
from bn_ops.core.statistics import Float64Array
from bn_ops.onnx_files.traversal import all_nodes
from bn_ops.verification.float64.operators import FAST_OPERATORS
from bn_ops.verification.float64.widen import widened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bn_ops.core.signature import Batch

__all__ = ["Float64Model", "NotExactError"]

Array = NDArray[np.generic]

_MAX_WORK = 12_000_000_000
"""Multiplications per run: ResNet-50 on one image takes 4 billion, ResNet-152 11.5. A count and
not a time limit, so that the same model is always verified in the same way."""

_MAX_MEMORY = 2 << 30
"""Bytes of all intermediate tensors: the evaluator keeps all of them until the end."""

_USUAL_WORK = 500_000_000
_USUAL_MEMORY = 256 << 20
"""Multiplications and bytes for which more than one sample is run: about a second."""

_DISCONTINUOUS = frozenset(
    {
        "Bernoulli",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators that draw random numbers or round: the result depends on the element type."""


class NotExactError(Exception):
    """The model cannot be evaluated in float64; the message is a clause with the reason."""


class Float64Model:
    """A model in float64, run by onnx's reference operators."""

    def __init__(
        self, model: onnx.ModelProto, exact: Mapping[str, Float64Array] = MappingProxyType({})
    ) -> None:
        """Widen the model.

        Args:
            model: not changed.
            exact: initializer → value to use instead of the stored one.

        Raises:
            NotExactError: an operator has no float64 form, or the weights take too much memory.
        """
        for node in all_nodes(model):
            if node.op_type in _DISCONTINUOUS:
                raise NotExactError(f"the model has a {node.op_type} node")
        self._check_weights(model)
        self._light, self._large = widened(model, exact)
        with _translated():
            self._evaluator = ReferenceEvaluator(self._light, new_ops=list(FAST_OPERATORS))

    def affordable(self, batch: Batch) -> int:
        """Return how many of a batch's samples take about a second; at least one."""
        one = {name: _wide(array[:1]) for name, array in batch.items()}
        work, memory = _cost(self._light, one)
        given = min((len(array) for array in batch.values()), default=1)
        affordable = min(_USUAL_WORK // max(work, 1), _USUAL_MEMORY // max(memory, 1))
        return max(1, min(given, affordable))

    def run(self, outputs: Sequence[str], batch: Batch) -> list[Array]:
        """Run one batch; floating inputs are widened first.

        Raises:
            NotExactError: an operator cannot be run in float64, or it would take too long.
        """
        feeds = {name: _wide(array) for name, array in batch.items()}
        self._check_cost(feeds)
        with _translated(), np.errstate(all="ignore"), warnings.catch_warnings():
            # Warnings about empty tensors and similar; the results are compared anyway.
            warnings.simplefilter("ignore", RuntimeWarning)
            found = self._evaluator.run(list(outputs), {**self._large, **feeds})
            return [np.asarray(item) for item in found]

    def _check_weights(self, model: onnx.ModelProto) -> None:
        elements = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
        if 8 * elements > _MAX_MEMORY:
            raise NotExactError(f"its weights would take {8 * elements / 2**30:.1f} GiB")

    def _check_cost(self, feeds: Batch) -> None:
        work, memory = _cost(self._light, feeds)
        if work > _MAX_WORK or memory > _MAX_MEMORY:
            raise NotExactError(
                f"it would take {work / 1e9:.0f} billion multiplications and "
                f"{memory / 2**30:.1f} GiB"
            )


class _translated:  # noqa: N801 - reads as a word in a with statement
    """Raise any error of the numpy operators as NotExactError."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, NotExactError):
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise NotExactError(first) from error


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if is_floating(array.dtype) else array


def _cost(light: onnx.ModelProto, feeds: Batch) -> tuple[int, int]:
    """Count multiplications of convolutions and matrix products, and bytes of all tensors.

    Unknown shapes count as zero: such models are small or rejected later.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(light)
    for value in sized.graph.input:
        if value.name in feeds:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in feeds[value.name].shape:
                shape.dim.add(dim_value=size)
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(sized).graph
    shapes = {v.name: _sizes(v) for v in (*inferred.value_info, *inferred.output, *inferred.input)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    work = sum(_work(node, shapes) for node in inferred.node)
    return work, 8 * sum(int(np.prod(shape)) for shape in shapes.values())


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _work(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return 0
    weight, source = shapes.get(node.input[1], ()), shapes.get(node.input[0], ())
    result = shapes.get(node.output[0], ())
    if node.op_type == "Conv":
        return int(np.prod(result)) * int(np.prod(weight[1:]))
    if node.op_type == "ConvTranspose":
        return int(np.prod(source)) * int(np.prod(weight[1:]))
    return int(np.prod(result)) * (source[-1] if source else 0)
