"""Inserting BatchNorm layers that leave the function of a model unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from bn_ops.batchnorm_insertion.filters import Filters, FiltersReader, filter_norms
from bn_ops.batchnorm_insertion.result import InsertedLayer, Insertion, LeftOperator
from bn_ops.batchnorm_insertion.sites import CONVOLUTIONS, Site, find_sites
from bn_ops.batchnorm_insertion.source_moments import TensorMoments, measure_tensors
from bn_ops.core.batches import Select, named_batches
from bn_ops.core.frontier import check_finite
from bn_ops.core.moments import Moments
from bn_ops.core.options import ProgressCallback, silent
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import Float64Array
from bn_ops.engines.onnx.graph import index_graph
from bn_ops.engines.onnx.prepare import add_initializer, prepare, unused_name
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import ModelUnsupportedError, OptionError, ParityError, StreamEmptyError
from bn_ops.folding.result import Folded
from bn_ops.model_sources import as_onnx, is_torch
from bn_ops.onnx_files.load import load_model
from bn_ops.onnx_files.traversal import standard_opset
from bn_ops.verification.reference import Reference

if TYPE_CHECKING:
    from bn_ops.diagnostics.report import Parity

__all__ = ["insert_batchnorm"]

_FIRST_INFERENCE_FORM = 7

_DTYPES = ("float32", "float64")

# Where the scale of the filters is not known: ε of an inserted layer over the smallest variance
# that counts. Its effect on the gain, 5e-7, is that of a few roundings in float32.
_EPS_SHARE = 1e-6

# A variance below either holds rounding noise: spread over mean at float32's resolution, as in
# `bn_ops.core.estimators.guards`, or a ten-millionth of the layer's largest.
_RELATIVE_RESOLUTION = 2.0**-20
_MIN_VARIANCE_SHARE = 1e-7

_VERIFIED_SAMPLES = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Layer:
    """A layer to insert: its place, its name and its parameters before rounding.

    Attributes:
        site: its place.
        name: its name.
        eps: ε.
        mean, var: moments of the operator's output over the source samples, shape (C,).
        scales: what the filter and bias of each channel are divided by, shape (C,).
        filters: the filters; None where they are not changed, and every scale is 1.
        dead: channels without variance.
        dtype: element type of the operator's output.
    """

    site: Site
    name: str
    eps: float
    mean: Float64Array
    var: Float64Array
    scales: Float64Array
    filters: Filters | None
    dead: tuple[int, ...]
    dtype: str


def insert_batchnorm(
    model: Any,
    source_batches: Iterable[Any],
    *,
    eps: float = 1e-5,
    select: Select | None = None,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Insertion:
    """Insert BatchNorm layers into a model that has none, without changing what it computes.

    For models whose BatchNorm an exporter has folded, and for networks that never had any. The
    result can be recalibrated and folded like any other model. Where a layer goes:
    `bn_ops.batchnorm_insertion.sites`.

    Args:
        model: an `onnx.ModelProto`, serialized bytes, a path to an `.onnx` or `.pt2` file, or a
            `torch.export.ExportedProgram`. Not changed.
        source_batches: unlabeled samples of the domain that the network was trained on, as for
            `bn_ops.recalibrate`. Their moments become the running statistics; a few hundred
            samples are enough.
        eps: ε of the layers that were folded: 1e-5 in PyTorch, often 1e-3 in Keras. It matters to
            channels of small variance only.
        select: applied to each item of the stream first.
        threads: threads within an operator; None means every core.
        progress: called between batches.

    Returns:
        The new model, proven to compute what the given one does.

    Raises:
        StreamEmptyError: there is no source sample.
        BatchError: a batch does not fit the model, or holds NaN or Inf.
        ModelUnsupportedError: there is no place for a layer.
        LayerNotFiniteError: NaN or Inf arises inside the network.
        ParityError: the new model does not compute the same.
    """
    if not 0 < eps < 1:
        raise OptionError(f"eps is {eps}; expected a number between 0 and 1, such as 1e-5")
    if is_torch(model):
        raise OptionError(
            "insert_batchnorm takes an ONNX model; bn_ops.export(module, example_inputs) makes one"
        )
    prepared = prepare(load_model(as_onnx(model))).model
    if standard_opset(prepared) < _FIRST_INFERENCE_FORM:
        raise ModelUnsupportedError(
            f"operator set {standard_opset(prepared)} has no inference form of BatchNormalization; "
            "convert the model to 13 or later"
        )
    index = index_graph(prepared.graph)
    sites, left = find_sites(index)
    _require_site(sites, left)
    kept = _KeptSamples(named_batches(source_batches, model_inputs(prepared), select=select))
    found = measure_tensors(
        prepared,
        list(dict.fromkeys(site.tensor for site in sites)),
        kept,
        threads=threads,
        progress=progress or silent,
    )
    if not kept.samples:
        raise StreamEmptyError("source_batches holds no sample")
    layers, unfit = _layers(prepared, sites, found, FiltersReader(index), eps)
    left = [*left, *unfit]
    _require_site([layer.site for layer in layers], left)
    changed = _with_layers(prepared, layers)
    parity = _verified(prepared, changed, layers, kept.first, threads)
    return Insertion(
        model=changed,
        layers=tuple(
            InsertedLayer(
                name=layer.name,
                operator=layer.site.operator,
                channels=int(layer.mean.size),
                dead=layer.dead,
            )
            for layer in layers
        ),
        left=tuple(left),
        samples=kept.samples,
        parity=parity,
    )


class _KeptSamples:
    """Counts a stream and keeps its first samples to verify with."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.samples = 0
        self.first: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            room = _VERIFIED_SAMPLES - self.samples
            if room > 0:
                self.first.append({name: array[:room].copy() for name, array in batch.items()})
            self.samples += next(iter(batch.values())).shape[0]
            yield batch


def _require_site(sites: list[Site], left: list[LeftOperator]) -> None:
    if sites:
        return
    reasons = f"; {left[0].operator!r}: {left[0].reason}" if left else ""
    raise ModelUnsupportedError(
        f"there is no place for a BatchNorm layer among the model's {len(left)} convolutions and "
        f"matrix products{reasons}"
    )


def _layers(
    model: onnx.ModelProto,
    sites: list[Site],
    found: Mapping[str, TensorMoments],
    reader: FiltersReader,
    eps: float,
) -> tuple[list[_Layer], list[LeftOperator]]:
    taken = {name for node in model.graph.node for name in (node.name, *node.output)}
    taken.update(tensor.name for tensor in model.graph.initializer)
    taken.update(value.name for value in model.graph.input)
    left = [
        LeftOperator(operator=site.operator, reason=reason)
        for site in sites
        if (reason := _unfit(site, found[site.tensor])) is not None
    ]
    fit = [site for site in sites if _unfit(site, found[site.tensor]) is None]
    filters = _filters(fit, found, reader, eps)
    layers = [
        _layer(site, found[site.tensor], taken, filters.get(site.tensor), eps) for site in fit
    ]
    return layers, left


def _unfit(site: Site, measured: TensorMoments) -> str | None:
    """Return why a measured tensor cannot be normalized, or None.

    Raises:
        LayerNotFiniteError: it holds NaN or Inf.
    """
    if measured.dtype not in _DTYPES or measured.moments is None:
        return f"its output is {measured.dtype} with {measured.rank} axes, not a float32 map"
    # A product over more than two axes has its channels last.
    if site.op_type not in CONVOLUTIONS and measured.rank != 2:  # noqa: PLR2004
        return f"its output has {measured.rank} axes"
    if site.op_type in CONVOLUTIONS and measured.moments.count == measured.moments.samples:
        return "one position per sample: networks have no BatchNorm after global pooling"
    check_finite(site.operator, measured.moments)
    if not _alive(measured.moments).any():
        return "its output is constant over the source samples"
    return None


def _filters(
    sites: list[Site], found: Mapping[str, TensorMoments], reader: FiltersReader, eps: float
) -> dict[str, tuple[Filters, Float64Array]]:
    """Return the filters of sites, by tensor, and the divisor of each channel's filter."""
    known = [(site.tensor, filters) for site in sites if (filters := reader.find(site)) is not None]
    variances = [_moments(found[tensor]).var_population for tensor, _ in known]
    norms = filter_norms(
        [(filters, var) for (_, filters), var in zip(known, variances, strict=True)], eps=eps
    )
    return {
        tensor: (filters, filters.scales(norm))
        for (tensor, filters), norm in zip(known, norms, strict=True)
    }


def _moments(measured: TensorMoments) -> Moments:
    assert measured.moments is not None  # checked by `_unfit`
    return measured.moments


def _layer(
    site: Site,
    measured: TensorMoments,
    taken: set[str],
    filters: tuple[Filters, Float64Array] | None,
    eps: float,
) -> _Layer:
    moments = _moments(measured)
    alive = _alive(moments)
    if filters is None:
        smallest = float(moments.var_population[alive].min())
        eps = max(_EPS_SHARE * smallest, float(np.finfo(np.float32).tiny))
    return _Layer(
        site=site,
        name=unused_name(taken, f"{site.operator}_batchnorm"),
        eps=float(np.float32(eps)),
        mean=moments.mean,
        var=moments.var_population,
        scales=np.ones(alive.size) if filters is None else np.where(alive, filters[1], 1.0),
        filters=None if filters is None else filters[0],
        dead=tuple(int(i) for i in np.flatnonzero(~alive)),
        dtype=measured.dtype,
    )


def _alive(moments: Moments) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    var = moments.var_population
    noise = (_RELATIVE_RESOLUTION * moments.mean) ** 2
    return np.asarray(var > np.maximum(noise, _MIN_VARIANCE_SHARE * float(var.max(initial=0.0))))


def _parameters(layer: _Layer) -> dict[str, Float64Array]:
    """Return tensor name → value before rounding, in the order of the node's inputs."""
    stored = (layer.var / layer.scales**2).astype(layer.dtype).astype(np.float64)
    return {
        # From the variance as it is stored: rounding it does not disturb the identity.
        f"{layer.name}.weight": np.sqrt(stored + layer.eps) * layer.scales,
        f"{layer.name}.bias": layer.mean,
        f"{layer.name}.running_mean": layer.mean / layer.scales,
        f"{layer.name}.running_var": stored,
    }


def _with_layers(model: onnx.ModelProto, layers: list[_Layer]) -> onnx.ModelProto:
    """Return a copy of a model with the layers in it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    taken = {name for node in changed.graph.node for name in node.output}
    behind: dict[int, onnx.NodeProto] = {}
    for layer in layers:
        if layer.filters is not None:
            layer.filters.divide(changed, layer.scales)
        parameters = _parameters(layer)
        for name, value in parameters.items():
            add_initializer(changed, numpy_helper.from_array(value.astype(layer.dtype), name))
        # The layer's output takes the tensor's name, so that no reader has to be renamed.
        before = unused_name(taken, f"{layer.site.tensor}_before_batchnorm")
        producer = changed.graph.node[layer.site.position]
        place = list(producer.output).index(layer.site.tensor)
        producer.output[place] = before
        behind[layer.site.position] = onnx.helper.make_node(
            "BatchNormalization",
            [before, *parameters],
            [layer.site.tensor],
            name=layer.name,
            epsilon=layer.eps,
        )
    nodes = list(changed.graph.node)
    ordered = [n for i, node in enumerate(nodes) for n in (node, behind.get(i)) if n is not None]
    del changed.graph.node[:]
    changed.graph.node.extend(ordered)
    return changed


def _verified(
    model: onnx.ModelProto,
    changed: onnx.ModelProto,
    layers: list[_Layer],
    samples: list[Batch],
    threads: int | None,
) -> Parity:
    """Prove that the layers change nothing.

    Raises:
        ParityError: the outputs differ.
    """
    exact = {name: value for layer in layers for name, value in _parameters(layer).items()}
    reference = Reference(model, samples, threads=threads, seed=0)
    parity = reference.verify(Folded(model=changed, layers=(), exact=exact))
    if not parity.passed:
        raise ParityError(
            "the model with inserted BatchNorm layers does not compute what the given one does: "
            f"relative error {parity.max_relative_error:.2g}"
        )
    return parity
