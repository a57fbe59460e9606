"""Names of layers and nodes in messages, and of new values in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

__all__ = ["FreshNames", "describe", "layer_name"]


def layer_name(node: ir.Node) -> str:
    """Return the stable name of a layer: the node's, or its first output's if it has none."""
    if node.name:
        return node.name
    return node.outputs[0].name or ""


def describe(node: ir.Node) -> str:
    """Return operator and name of a node, for messages."""
    return f"{node.op_type} {layer_name(node)!r}"


class FreshNames:
    """Creates value names that are unused in the model, including subgraphs.

    Names defined in subgraphs count as used: they would shadow a new outer value of that name.
    """

    def __init__(self, model: ir.Model) -> None:
        self._taken = set(_value_names(model))

    def take(self, hint: str) -> str:
        """Return `hint`, or `hint_1`, `hint_2` … if it is in use, and reserve it."""
        name, count = hint, 0
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        return name


def _value_names(model: ir.Model) -> Iterator[str]:
    for graph in model.graphs():
        yield from (value.name or "" for value in graph.inputs)
        yield from graph.initializers
        for node in graph:
            yield from (value.name or "" for value in node.outputs)
