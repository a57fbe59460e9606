"""Layers on their way to a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bn_ops.diagnostics.report import LayerFold
from bn_ops.folding.batchnorm import is_batchnorm
from bn_ops.folding.names import layer_name

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Layer", "find_layers", "settle_unreachable"]


@dataclass(slots=True)
class Layer:
    """What is known of a layer while folding goes on; neither rule nor reason: nothing yet."""

    node: ir.Node
    name: str
    rule: str | None = None
    reason: str | None = None

    @property
    def open(self) -> bool:
        """Whether nothing has been decided yet."""
        return self.rule is None and self.reason is None

    def result(self) -> LayerFold:
        """Return what became of it."""
        return LayerFold(
            name=self.name,
            status="folded" if self.reason is None else "kept",
            rule=self.rule,
            reason=self.reason,
        )


def find_layers(model: ir.Model) -> list[Layer]:
    """List the layers of the main graph in order, then those inside bodies."""
    found = [node for node in model.graph.all_nodes() if is_batchnorm(node)]
    found.sort(key=lambda node: node.graph is not model.graph)
    return [Layer(node=node, name=layer_name(node)) for node in found]


def settle_unreachable(model: ir.Model, layers: list[Layer]) -> None:
    """Decide about layers that are gone with dead nodes, and about those inside bodies."""
    left = set(model.graph.all_nodes())
    for layer in layers:
        if layer.node not in left:
            layer.rule = "unused"
        elif layer.node.graph is not model.graph:
            layer.reason = "it is inside the body of an If, Loop or Scan, which is left alone"
