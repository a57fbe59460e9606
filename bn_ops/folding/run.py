"""Fold a model: try every layer repeatedly until no more can be folded."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from bn_ops.errors import OptionError
from bn_ops.folding.affine import MATRIX, along
from bn_ops.folding.batchnorm import read_batchnorm, standard_opset
from bn_ops.folding.casting import FLOATS, cast_fault
from bn_ops.folding.cleanup import inline_batchnorm_functions, remove_unused
from bn_ops.folding.constants import Constants
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
from bn_ops.onnx_files.traversal import has_batchnorm

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine, Float64Array

__all__ = ["fold", "fold_with"]


def fold(
    onnx_model: onnx.ModelProto,
    *,
    unfolded: Unfolded = "keep",
    skip: Mapping[str, str] = MappingProxyType({}),
) -> Folded:
    """Fold every BatchNormalization that other weights can absorb exactly.

    Scales and shifts are computed in float64 from the stored tensors and cast once. The given model
    is never changed; the same model gives the same bytes, and folding is idempotent. Inputs and
    outputs keep names, types, shapes and order. No computation is added.

    Args:
        onnx_model: a valid model of any IR version, without external data.
        unfolded: `keep` leaves unfolded layers unchanged; `mul_add` rewrites them as Mul and Add
            where their parameters are constant.
        skip: layers not to fold, each with the reason to report.

    Returns:
        The folded model, and for every layer whether it was folded, by which rule, or why not.

    Raises:
        OptionError: `unfolded` is invalid.
        ModelInvalidError: the model cannot be read as a graph.
    """
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
