"""Programs that were exported in train mode, as they are in eval mode."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

__all__ = ["evaluated"]

_ATEN = torch.ops.aten
# operator → position of its `training` flag.
_TRAINING_FLAG: Mapping[object, int] = {
    _ATEN.batch_norm.default: 5,
    _ATEN.dropout.default: 2,
    _ATEN.feature_dropout.default: 2,
    _ATEN.alpha_dropout.default: 2,
    _ATEN.feature_alpha_dropout.default: 2,
}
_RUNNING_MEAN = 3


def evaluated(program: ExportedProgram) -> ExportedProgram:
    """Return the program with BatchNorm and dropout in inference form.

    The program given is not modified; one without training-mode operators is returned itself.
    """
    if not any(_is_training(node) for node in program.graph.nodes):
        return program
    module = copy.copy(program.graph_module)
    module.graph = _evaluated_graph(program.graph)
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )


def _is_training(node: Node) -> bool:
    flag = _TRAINING_FLAG.get(node.target) if node.op == "call_function" else None
    if flag is None or len(node.args) <= flag or not node.args[flag]:
        return False
    # Without running statistics a BatchNorm normalises by the batch in eval mode too.
    return node.target is not _ATEN.batch_norm.default or node.args[_RUNNING_MEAN] is not None


def _evaluated_graph(graph: Graph) -> Graph:
    copied = copy.deepcopy(graph)
    # A copy renames nodes that are named like a builtin (`input`); the signature goes by name.
    for old, new in zip(graph.nodes, copied.nodes, strict=True):
        new.name = old.name
    for node in list(copied.nodes):
        if _is_training(node):
            flag = _TRAINING_FLAG[node.target]
            node.args = (*node.args[:flag], False, *node.args[flag + 1 :])
        elif _counts_batches(node):
            copied.erase_node(node)
    return copied


def _counts_batches(node: Node) -> bool:
    """Tell whether a node is BatchNorm's own step of `num_batches_tracked`."""
    if node.target is not _ATEN.add_.Tensor or node.users:
        return False
    counter = node.args[0]
    return isinstance(counter, Node) and counter.name.endswith("num_batches_tracked")
