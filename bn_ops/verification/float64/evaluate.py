"""Evaluate one model in float64."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from threadpoolctl import threadpool_limits

from bn_ops.core.signature import is_floating
from bn_ops.core.statistics import Float64Array
from bn_ops.onnx_files.traversal import all_nodes
from bn_ops.verification.float64.operators import FAST_OPERATORS
from bn_ops.verification.float64.widen import widened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bn_ops.core.signature import Batch

__all__ = ["Float64Model", "NotExactError", "evaluation"]

Array = NDArray[np.generic]
SummaryT = TypeVar("SummaryT")
Summarize = Callable[[Array], SummaryT]

_MAX_WORK = 12_000_000_000
"""Multiplications per run: ResNet-50 on one image takes 4 billion, ResNet-152 11.5. A count and
not a time limit, so that the same model is always verified in the same way."""

_MAX_MEMORY = 2 << 30
"""Bytes of all intermediate tensors: a model with subgraphs keeps all of them to the end."""

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


_blas = threading.Lock()


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
        self._costs: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[int, int]] = {}

    def affordable(self, batch: Batch) -> int:
        """Return how many samples like those of a batch take about a second; at least one."""
        one = {name: _wide(array[:1]) for name, array in batch.items()}
        work, memory = self._cost(one)
        return max(1, min(_USUAL_WORK // max(work, 1), _USUAL_MEMORY // max(memory, 1)))

    def run(self, outputs: Sequence[str], batch: Batch) -> list[Array]:
        """Run one batch and return the outputs; see `run_all`."""
        ((found, _),) = self.run_all(outputs, [batch], threads=1)
        return found

    def run_all(
        self,
        outputs: Sequence[str],
        batches: Sequence[Batch],
        *,
        threads: int,
        summarize: Summarize[SummaryT] | None = None,
        summarized: Sequence[str] = (),
    ) -> list[tuple[list[Array], dict[str, SummaryT]]]:
        """Run batches concurrently; floating inputs are widened first.

        Args:
            outputs: tensors to return.
            batches: the inputs.
            threads: number of batches that run at the same time.
            summarize: called with each tensor of `summarized` when it is computed.
            summarized: tensors of which only the summary is wanted.

        Returns:
            For each batch its outputs, and the summaries by tensor.

        Raises:
            NotExactError: an operator cannot be run in float64, or it would take too long.
        """
        with evaluation(), ThreadPoolExecutor(threads, "float64") as pool:
            started = self.start_all(
                pool, outputs, batches, summarize=summarize, summarized=summarized
            )
            return [found.result() for found in started]

    def start_all(
        self,
        pool: Executor,
        outputs: Sequence[str],
        batches: Sequence[Batch],
        *,
        summarize: Summarize[SummaryT] | None = None,
        summarized: Sequence[str] = (),
    ) -> list[Future[tuple[list[Array], dict[str, SummaryT]]]]:
        """Start batches in a pool, within `evaluation`; see `run_all`."""
        summaries = {} if summarize is None else dict.fromkeys(summarized, summarize)

        def run(batch: Batch) -> tuple[list[Array], dict[str, SummaryT]]:
            with _translated(), np.errstate(all="ignore"):
                wide = {name: _wide(array) for name, array in batch.items()}
                self._check_cost(wide)
                return _evaluate(self._evaluator, outputs, {**self._large, **wide}, summaries)

        return [pool.submit(run, batch) for batch in batches]

    def _check_weights(self, model: onnx.ModelProto) -> None:
        elements = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
        if 8 * elements > _MAX_MEMORY:
            raise NotExactError(f"its weights would take {8 * elements / 2**30:.1f} GiB")

    def _check_cost(self, feeds: Batch) -> None:
        work, memory = self._cost(feeds)
        if work > _MAX_WORK or memory > _MAX_MEMORY:
            raise NotExactError(
                f"it would take {work / 1e9:.0f} billion multiplications and "
                f"{memory / 2**30:.1f} GiB"
            )

    def _cost(self, feeds: Batch) -> tuple[int, int]:
        key = tuple((name, array.shape) for name, array in sorted(feeds.items()))
        if key not in self._costs:
            self._costs[key] = _cost(self._light, feeds)
        return self._costs[key]


def _evaluate(
    evaluator: ReferenceEvaluator,
    outputs: Sequence[str],
    feeds: Mapping[str, Array],
    summaries: Mapping[str, Summarize[SummaryT]],
) -> tuple[list[Array], dict[str, SummaryT]]:
    """Run an evaluator, and free each tensor after the last node that reads it.

    `ReferenceEvaluator.run` keeps all tensors to the end. Fresh memory for each of them takes more
    time than many operators do.
    """
    nodes = evaluator.rt_nodes_
    # A subgraph reads tensors of the graph around it, which its node does not list.
    keep_all = any(node.need_context() for node in nodes)
    last = {name: position for position, node in enumerate(nodes) for name in node.input}
    values: dict[str, Any] = {"": None, **evaluator.rt_inits_, **feeds}
    kept = {*values, *outputs}
    found: dict[str, SummaryT] = {}
    for position, node in enumerate(nodes):
        context = {"context": values} if node.need_context() else {}
        made = node.run(*(values[name] for name in node.input), **context)
        values.update(zip(node.output, made, strict=False))
        for name in summaries.keys() & set(node.output):
            found[name] = summaries[name](values[name])
        for name in {*node.input, *node.output} - kept:
            if not keep_all and last.get(name, position) <= position:
                del values[name]
    return [np.asarray(values[name]) for name in outputs], found


@contextmanager
def evaluation() -> Iterator[None]:
    """Set what the process needs while models run in float64, and restore it at the end.

    Matrix products of numpy run on the calling threads only, and numpy's warnings are ignored. The
    threads of a BLAS library wait for each other at every product. On a machine with other work
    that takes ten times the product itself, and the caller's number of threads does not limit them.
    The limit applies to the process, so only one caller at a time sets and restores it.
    """
    with _blas, threadpool_limits(limits=1, user_api="blas"), warnings.catch_warnings():
        # Warnings about empty tensors and similar; the results are compared anyway.
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


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
