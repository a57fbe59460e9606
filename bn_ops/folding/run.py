"""Folding a model: every layer tried, again and again, until none can go any more."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from bn_ops.errors import OptionError
from bn_ops.folding.batchnorm import read_batchnorm, standard_opset
from bn_ops.folding.cleanup import remove_unused
from bn_ops.folding.constants import Constants
from bn_ops.folding.editor import Editor
from bn_ops.folding.functions import inline_normalising_functions
from bn_ops.folding.layers import Layer, find_layers, settle_unreachable
from bn_ops.folding.leftovers import write_as_mul_add
from bn_ops.folding.plan import Outcome, Plan, Refusal
from bn_ops.folding.protos import (
    all_kept,
    copied,
    normalises,
    read_graph,
    stores_sparse,
    write_graph,
)
from bn_ops.folding.result import Folded, Leftovers
from bn_ops.folding.rules import RULES, Rule
from bn_ops.folding.shapes import Shapes
from bn_ops.folding.walk import GraphWalk

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine, Float64Array

__all__ = ["fold", "fold_with"]


def fold(
    onnx_model: onnx.ModelProto,
    *,
    leftovers: Leftovers = "keep",
    leave: Mapping[str, str] = MappingProxyType({}),
) -> Folded:
    """Fold every BatchNormalization whose effect other weights can hold exactly.

    Scales and shifts are computed in float64 from the stored tensors and cast once. The given
    model is never changed; the same model gives the same bytes, and folding twice is folding once.
    Inputs and outputs keep names, types, shapes and order. No compute is added.

    Args:
        onnx_model: a valid model of any IR version, its tensors embedded.
        leftovers: `keep` leaves the layers that stay as they are; `mul_add` writes them as Mul
            and Add where their parameters are fixed.
        leave: layers to leave alone, each with the reason to report.

    Returns:
        The folded model, and for every layer whether it was folded, by which rule, or why not.

    Raises:
        OptionError: `leftovers` is no such choice.
        ModelInvalidError: the model cannot be read as a graph.
    """
    return fold_with(onnx_model, leftovers=leftovers, leave=leave, rules=RULES)


def fold_with(
    onnx_model: onnx.ModelProto,
    *,
    leftovers: Leftovers,
    leave: Mapping[str, str],
    rules: Mapping[str, Rule],
) -> Folded:
    """Fold by a given set of rules; see `fold`."""
    if leftovers not in {"keep", "mul_add"}:
        raise OptionError(f"leftovers is 'keep' or 'mul_add', got {leftovers!r}")
    if not normalises(onnx_model):
        return Folded(model=copied(onnx_model), layers=())
    if stores_sparse(onnx_model):
        return all_kept(onnx_model, "the model stores sparse tensors, which folding cannot keep")
    model = read_graph(onnx_model)
    inline_normalising_functions(model)
    layers = find_layers(model)
    # First of all: a dead node that still counts as a reader would hold up its neighbours.
    remove_unused(model)
    settle_unreachable(model, layers)
    folding = _Folding(model, leave=leave, rules=rules)
    folding.run([layer for layer in layers if layer.open], leftovers)
    remove_unused(model)
    return Folded(
        model=write_graph(model, onnx_model),
        layers=tuple(layer.result() for layer in layers),
        exact=folding.exact(),
    )


class _Folding:
    """One run over one model, which it changes."""

    def __init__(
        self, model: ir.Model, *, leave: Mapping[str, str], rules: Mapping[str, Rule]
    ) -> None:
        self._graph = model.graph
        self._opset = standard_opset(model)
        self._rules = rules
        self._leave = leave
        self._constants = Constants(model.ir_version)
        self._shapes = Shapes(model)
        self._editor = Editor(model, constants=self._constants, shapes=self._shapes)

    def run(self, waiting: list[Layer], leftovers: Leftovers) -> None:
        """Fold layers of the main graph, again and again, until none can go any more."""
        while waiting:
            # Not a generator in any(): every layer is tried in each round.
            gone = [layer for layer in waiting if self._try(layer)]
            if not gone:
                break
            waiting = [layer for layer in waiting if layer not in gone]
        if leftovers == "mul_add":
            for layer in waiting:
                self._write_out(layer)

    def exact(self) -> Mapping[str, Float64Array]:
        """Return what was written into weights that the graph still has, before rounding."""
        return MappingProxyType(self._constants.exact(self._graph))

    def _try(self, layer: Layer) -> bool:
        """Fold one layer if that is exact; else remember why not."""
        outcome = self._attempt(layer)
        if isinstance(outcome, Refusal):
            layer.reason = outcome.reason
            return False
        layer.rule, layer.reason = outcome.path, None
        return True

    def _attempt(self, layer: Layer) -> Outcome:
        node = layer.node
        if layer.name in self._leave:
            return Refusal(reason=self._leave[layer.name])
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
        behind = _checked(self._walk().forward(result, affine))
        if isinstance(behind, Plan):
            self._editor.apply(behind)
            self._editor.drop(node, keep_name=False)
            return behind
        return Refusal(
            reason=f"not into what comes before it: {before.reason}; "
            f"not into what follows it: {behind.reason}"
        )

    def _walk(self) -> GraphWalk:
        return GraphWalk(
            self._graph,
            constants=self._constants,
            shapes=self._shapes,
            opset=self._opset,
            rules=self._rules,
        )

    def _write_out(self, layer: Layer) -> None:
        affine = read_batchnorm(layer.node, self._constants, self._opset)
        if isinstance(affine, Refusal):
            return
        if write_as_mul_add(layer.node, affine, editor=self._editor, shapes=self._shapes):
            layer.rule = "mul-add"


def _checked(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Refusal):
        return outcome
    return outcome.fault() or outcome
