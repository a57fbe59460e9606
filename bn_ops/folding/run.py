"""Fold a model: try every layer repeatedly until no more can be folded."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from bn_ops.errors import ModelInvalidError, ModelUnsupportedError, OptionError
from bn_ops.folding.affine import MATRIX, along
from bn_ops.folding.batchnorm import is_batchnorm, read_batchnorm, standard_opset
from bn_ops.folding.casting import FLOATS, cast_fault
from bn_ops.folding.constants import CONSTANT_IR_VERSION, Constants
from bn_ops.folding.editor import Editor
from bn_ops.folding.layers import Layer, decide_unreachable, find_layers
from bn_ops.folding.names import layer_name
from bn_ops.folding.plan import Outcome, Plan, Refusal
from bn_ops.folding.proto_io import (
    all_kept,
    copied,
    read_graph,
    stores_sparse,
    write_graph,
)
from bn_ops.folding.result import Folded, Unfolded
from bn_ops.folding.rules import RULES, Rule
from bn_ops.folding.shapes import Shapes
from bn_ops.folding.walk import GraphWalk
from bn_ops.onnx_files.load import load_model
from bn_ops.onnx_files.traversal import has_batchnorm

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from bn_ops.folding.affine import ChannelAffine, Float64Array

__all__ = ["fold", "fold_with", "inline_batchnorm_functions", "remove_unused"]

# Prepare and clean up a graph: inline functions, remove unused nodes and initializers.


def inline_batchnorm_functions(model: ir.Model) -> None:
    """Inline every local function that contains or calls a BatchNormalization, in place.

    A layer inside a function can only be folded where the function is called. Other functions are
    not inlined.

    Raises:
        ModelInvalidError: the functions are recursive.
    """
    wanted = _functions_with_batchnorm(model)
    if not wanted:
        return
    try:
        InlinePass(criteria=lambda function: function.identifier() in wanted)(model)
    except ir.passes.PreconditionError as error:
        raise ModelInvalidError(f"the local functions cannot be inlined: {error}") from error


def _functions_with_batchnorm(model: ir.Model) -> set[ir.OperatorIdentifier]:
    found: set[ir.OperatorIdentifier] = set()
    size = -1
    while len(found) != size:
        size = len(found)
        for identifier, function in model.functions.items():
            nodes = list(function.all_nodes())
            if any(is_batchnorm(node) or node.op_identifier() in found for node in nodes):
                found.add(identifier)
    return found


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers of the main graph that contribute to no output, in place.

    Inputs are kept even if unused, and so is the default of an input that a caller may override.
    """
    graph = model.graph
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            _release_outer_values(node)
            graph.remove(node, safe=True)
    overridable = model.ir_version >= CONSTANT_IR_VERSION
    for name, value in list(graph.initializers.items()):
        if value.uses() or value.is_graph_output():
            continue
        if not value.is_graph_input():
            del graph.initializers[name]
        elif not overridable:
            graph.inputs.remove(value)
            del graph.initializers[name]


def _release_outer_values(node: ir.Node) -> None:
    """Unlink the subgraphs of a removed node, so that they no longer count as readers."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            subgraphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            subgraphs = list(attribute.as_graphs())
        else:
            continue
        for subgraph in subgraphs:
            for inner in subgraph.all_nodes():
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)


def fold(
    onnx_model: onnx.ModelProto | bytes | str | Path,
    *,
    unfolded: Unfolded = "keep",
    skip: Mapping[str, str] = MappingProxyType({}),
) -> Folded:
    """Fold every BatchNormalization that other weights can absorb exactly.

    Scales and shifts are computed in float64 from the stored tensors and cast once. The given model
    is never changed; the same model gives the same bytes, and folding is idempotent. Inputs and
    outputs keep names, types, shapes and order. No computation is added.

    Args:
        onnx_model: a valid model of any IR version: an `onnx.ModelProto` without external data,
            serialized bytes, or a path.
        unfolded: `keep` leaves unfolded layers unchanged; `mul_add` rewrites them as Mul and Add
            where their parameters are constant.
        skip: layers not to fold, each with the reason to report.

    Returns:
        The folded model, and for every layer whether it was folded, by which rule, or why not.

    Raises:
        OptionError: `unfolded` is invalid.
        ModelUnsupportedError: it is not an ONNX model.
        ModelInvalidError: the model cannot be read as a graph.
    """
    if isinstance(onnx_model, bytes | str | Path):
        onnx_model = load_model(onnx_model)
    elif type(onnx_model).__name__ != "ModelProto":
        raise ModelUnsupportedError(
            f"fold takes an ONNX model, not {type(onnx_model).__name__}; "
            "bn_ops.export(module, example_inputs) makes one"
        )
    return fold_with(onnx_model, unfolded=unfolded, skip=skip, rules=RULES)


def fold_with(
    onnx_model: onnx.ModelProto,
    *,
    unfolded: Unfolded,
    skip: Mapping[str, str],
    rules: Mapping[str, Rule],
) -> Folded:
    """Fold with a given set of rules; see `fold`."""
    if unfolded not in {"keep", "mul_add"}:
        raise OptionError(f"unfolded must be 'keep' or 'mul_add', got {unfolded!r}")
    if not has_batchnorm(onnx_model):
        return Folded(model=copied(onnx_model), layers=())
    if stores_sparse(onnx_model):
        return all_kept(
            onnx_model, "the model stores sparse tensors, which folding cannot preserve"
        )
    model = read_graph(onnx_model)
    inline_batchnorm_functions(model)
    layers = find_layers(model)
    # First: a dead node that still counts as a reader would prevent folds.
    remove_unused(model)
    decide_unreachable(model, layers)
    folding = _Folding(model, skip=skip, rules=rules)
    folding.run([layer for layer in layers if layer.open], unfolded)
    remove_unused(model)
    return Folded(
        model=write_graph(model, onnx_model),
        layers=tuple(layer.result() for layer in layers),
        exact=folding.exact(),
    )


class _Folding:
    """One run over one model, which it modifies."""

    def __init__(
        self, model: ir.Model, *, skip: Mapping[str, str], rules: Mapping[str, Rule]
    ) -> None:
        self._graph = model.graph
        self._opset = standard_opset(model)
        self._rules = rules
        self._skip = skip
        self._constants = Constants(model.ir_version)
        self._shapes = Shapes(model)
        self._editor = Editor(model, constants=self._constants, shapes=self._shapes)

    def run(self, waiting: list[Layer], unfolded: Unfolded) -> None:
        """Fold layers of the main graph repeatedly until no more can be folded."""
        while waiting:
            # Not a generator in any(): every layer is tried in each round.
            folded = [layer for layer in waiting if self._try(layer)]
            if not folded:
                break
            waiting = [layer for layer in waiting if layer not in folded]
        if unfolded == "mul_add":
            for layer in waiting:
                self._rewrite(layer)

    def exact(self) -> Mapping[str, Float64Array]:
        """Return the unrounded values of the folded weights that the graph still has."""
        return MappingProxyType(self._constants.exact(self._graph))

    def _try(self, layer: Layer) -> bool:
        """Fold one layer if that is exact; otherwise record why not."""
        outcome = self._attempt(layer)
        if isinstance(outcome, Refusal):
            layer.reason = outcome.reason
            return False
        layer.rule, layer.reason = outcome.path, None
        return True

    def _attempt(self, layer: Layer) -> Outcome:
        node = layer.node
        if layer.name in self._skip:
            return Refusal(reason=self._skip[layer.name])
        affine = read_batchnorm(node, self._constants, self._opset)
        if isinstance(affine, Refusal):
            return affine
        return self._absorb(node, affine)

    def _absorb(self, node: ir.Node, affine: ChannelAffine) -> Outcome:
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None  # the layer has been read
        before = _checked(self._walk().backward(source, affine))
        if isinstance(before, Plan):
            self._editor.apply(before)
            self._editor.drop(node, keep_name=True)
            return before
        after = _checked(self._walk().forward(result, affine))
        if isinstance(after, Plan):
            self._editor.apply(after)
            self._editor.drop(node, keep_name=False)
            return after
        return Refusal(
            reason=f"not into the operators before it: {before.reason}; "
            f"not into those after it: {after.reason}"
        )

    def _walk(self) -> GraphWalk:
        return GraphWalk(
            self._graph,
            constants=self._constants,
            shapes=self._shapes,
            opset=self._opset,
            rules=self._rules,
        )

    def _rewrite(self, layer: Layer) -> None:
        """Replace a layer by `Mul(x, a)` and `Add(·, b)`, for accelerators without BatchNorm."""
        affine = read_batchnorm(layer.node, self._constants, self._opset)
        if not isinstance(affine, Refusal) and self._rewrite_as_mul_add(layer.node, affine):
            layer.rule = "mul-add"

    def _rewrite_as_mul_add(self, node: ir.Node, affine: ChannelAffine) -> bool:
        """Return whether it was possible: rank and element type are known and hold a and b."""
        source = node.inputs[0]
        assert source is not None  # the layer has been read
        rank, dtype = self._shapes.rank(source), self._shapes.dtype(source)
        if rank is None or rank < MATRIX or dtype not in FLOATS:
            return False
        scale = along(affine.scale, axis=1, rank=rank)
        shift = along(affine.shift, axis=1, rank=rank)
        if cast_fault(scale, dtype) == "overflow" or cast_fault(shift, dtype) == "overflow":
            return False
        name, editor = layer_name(node), self._editor
        product = editor.insert("Mul", node, source, editor.constant(f"{name}.scale", scale, dtype))
        total = editor.insert(
            "Add", product, product.outputs[0], editor.constant(f"{name}.shift", shift, dtype)
        )
        editor.substitute(node, total)
        return True


def _checked(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Refusal):
        return outcome
    return outcome.cast_refusal() or outcome
