"""Folding a model: every layer tried, again and again, until none can go any more."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from bn_ops.errors import ModelInvalidError, OptionError
from bn_ops.fold.already import all_nodes
from bn_ops.fold.batchnorm import is_batchnorm, read_batchnorm, standard_opset
from bn_ops.fold.cleanup import remove_unused
from bn_ops.fold.constants import Constants
from bn_ops.fold.editor import Editor
from bn_ops.fold.functions import inline_normalising_functions
from bn_ops.fold.leftovers import write_as_mul_add
from bn_ops.fold.names import layer_name
from bn_ops.fold.plan import Outcome, Plan, Refusal
from bn_ops.fold.result import Folded, LayerFold, Leftovers
from bn_ops.fold.rules import RULES, Rule
from bn_ops.fold.shapes import Shapes
from bn_ops.fold.walk import GraphWalk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bn_ops.fold.affine import ChannelAffine

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
    if not _normalises(onnx_model):
        return Folded(model=_copy(onnx_model), layers=())
    if onnx_model.graph.sparse_initializer:
        return _all_kept(onnx_model, "the model stores sparse tensors, which folding cannot keep")
    model = _read(onnx_model)
    inline_normalising_functions(model)
    layers = [_Layer(node=node, name=layer_name(node)) for node in _layers_of(model)]
    # First of all: a dead node that still counts as a reader would hold up its neighbours.
    remove_unused(model)
    _settle_unreachable(model, layers)
    _Folding(model, leave=leave, rules=rules).run(
        [layer for layer in layers if layer.open], leftovers
    )
    remove_unused(model)
    results = tuple(layer.result() for layer in layers)
    return Folded(model=_write(model, onnx_model), layers=results)


@dataclass(slots=True)
class _Layer:
    """What is known of a layer while folding goes on; neither rule nor reason: nothing yet."""

    node: ir.Node
    name: str
    rule: str | None = None
    reason: str | None = None

    @property
    def open(self) -> bool:
        return self.rule is None and self.reason is None

    def result(self) -> LayerFold:
        return LayerFold(
            name=self.name,
            status="folded" if self.reason is None else "kept",
            rule=self.rule,
            reason=self.reason,
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

    def run(self, waiting: list[_Layer], leftovers: Leftovers) -> None:
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

    def _try(self, layer: _Layer) -> bool:
        """Fold one layer if that is exact; else remember why not."""
        outcome = self._attempt(layer)
        if isinstance(outcome, Refusal):
            layer.reason = outcome.reason
            return False
        layer.rule, layer.reason = outcome.path, None
        return True

    def _attempt(self, layer: _Layer) -> Outcome:
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

    def _write_out(self, layer: _Layer) -> None:
        affine = read_batchnorm(layer.node, self._constants, self._opset)
        if isinstance(affine, Refusal):
            return
        if write_as_mul_add(layer.node, affine, editor=self._editor, shapes=self._shapes):
            layer.rule = "mul-add"


def _checked(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Refusal):
        return outcome
    return outcome.fault() or outcome


def _layers_of(model: ir.Model) -> list[ir.Node]:
    """List the layers of the main graph in order, then those inside bodies."""
    found = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    return sorted(found, key=lambda node: node.graph is not model.graph)


def _settle_unreachable(model: ir.Model, layers: list[_Layer]) -> None:
    """Decide about layers that are gone with dead nodes, and about those inside bodies."""
    left = set(model.graph.all_nodes())
    for layer in layers:
        if layer.node not in left:
            layer.rule = "unused"
        elif layer.node.graph is not model.graph:
            layer.reason = "it is inside the body of an If, Loop or Scan, which is left alone"


def _read(onnx_model: onnx.ModelProto) -> ir.Model:
    try:
        return ir.from_proto(onnx_model)
    except (ValueError, TypeError, KeyError, AttributeError, ir.serde.SerdeError) as error:
        raise ModelInvalidError(f"the model cannot be read as a graph: {error}") from error


def _write(model: ir.Model, original: onnx.ModelProto) -> onnx.ModelProto:
    written = ir.to_proto(model)
    # The graph core states the shape of every weight anew; the file says no more than it did.
    stated = {value.name for value in original.graph.value_info}
    kept = [value for value in written.graph.value_info if value.name in stated]
    del written.graph.value_info[:]
    written.graph.value_info.extend(kept)
    # The graph core has no place for training information; folding does not touch it.
    written.training_info.extend(original.training_info)
    return written


def _normalises(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "BatchNormalization" for node in all_nodes(model))


def _all_kept(original: onnx.ModelProto, reason: str) -> Folded:
    model = _read(original)
    layers = tuple(
        LayerFold(name=layer_name(node), status="kept", rule=None, reason=reason)
        for node in model.graph.all_nodes()
        if is_batchnorm(node)
    )
    return Folded(model=_copy(original), layers=layers)


def _copy(original: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(original)
    return copy
