"""The BatchNorm layers of a graph and their outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bn_ops.diagnostics.report import LayerFold
from bn_ops.folding.batchnorm import is_batchnorm
from bn_ops.folding.names import layer_name

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Layer", "decide_unreachable", "find_layers"]


@dataclass(slots=True)
class Layer:
    """State of a layer during folding; undecided while it has neither a rule nor a reason."""

    node: ir.Node
    name: str
    rule: str | None = None
    reason: str | None = None

    @property
    def open(self) -> bool:
        """Return whether the layer is undecided."""
        return self.rule is None and self.reason is None

    def result(self) -> LayerFold:
        """Return the outcome."""
        return LayerFold(
            name=self.name,
            status="folded" if self.reason is None else "kept",
            rule=self.rule,
            reason=self.reason,
        )


def find_layers(model: ir.Model) -> list[Layer]:
    """List the layers of the main graph in order, then those of subgraphs."""
    found = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    found.sort(key=lambda node: node.graph is not model.graph)
    return [Layer(node=node, name=layer_name(node)) for node in found]


def decide_unreachable(model: ir.Model, layers: list[Layer]) -> None:
    """Decide about layers that were removed as unused, and about those in subgraphs."""
    present = set(model.graph.all_nodes())
    for layer in layers:
        if layer.node not in present:
            layer.rule = "unused"
        elif layer.node.graph is not model.graph:
            layer.reason = "it is in the subgraph of an If, Loop or Scan, which is not folded"
