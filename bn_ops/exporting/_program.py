"""Exported programs in eval mode: traced from a module, or converted from a training program."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bn_ops.exporting._exporter_steps import exporter_step
from bn_ops.exporting._inputs import ExampleCall
from bn_ops.torch_modules.frozen_batchnorm import frozen_eps, normalize
from bn_ops.torch_modules.module_state import set_eval, unchanged

__all__ = ["evaluated", "traced"]


_ATEN = torch.ops.aten
# Operator → position of its `training` argument.
_TRAINING_FLAG: Mapping[object, int] = {
    _ATEN.batch_norm.default: 5,
    _ATEN.dropout.default: 2,
    _ATEN.feature_dropout.default: 2,
    _ATEN.alpha_dropout.default: 2,
    _ATEN.feature_alpha_dropout.default: 2,
}
_RUNNING_MEAN = 3


def traced(module: torch.nn.Module, call: ExampleCall) -> ExportedProgram:
    """Trace one call of the module in eval mode.

    Raises:
        ExportError: the module cannot be traced.
    """
    with ExitStack() as stack:
        stack.enter_context(exporter_step("tracing the module", module=module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(unchanged(module))
        set_eval(module)
        _use_batch_norm_in_frozen(module)
        return torch.export.export(
            module,
            call.args,
            call.kwargs,
            dynamic_shapes=call.dynamic_shapes(module),
            strict=False,
        )


def _use_batch_norm_in_frozen(root: torch.nn.Module) -> None:
    """Replace the forward of frozen BatchNorm classes by batch_norm until the state is restored."""
    for module in root.modules():
        eps = None if "forward" in module.__dict__ else frozen_eps(module)
        if eps is not None:
            module.__dict__["forward"] = partial(_normalized, module, eps)


def _normalized(module: torch.nn.Module, eps: float, x: torch.Tensor) -> torch.Tensor:
    return normalize(module, x, eps)


def evaluated(program: ExportedProgram) -> ExportedProgram:
    """Return the program with BatchNorm and dropout in inference form.

    The given program is not modified; it is returned unchanged if it has no training-mode operator.
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
    # Without running statistics a BatchNorm uses batch statistics in eval mode, too.
    return node.target is not _ATEN.batch_norm.default or node.args[_RUNNING_MEAN] is not None


def _evaluated_graph(graph: Graph) -> Graph:
    copied = copy.deepcopy(graph)
    # A copy renames nodes that are named like a builtin (`input`); the signature refers to names.
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
    """Return whether a node is BatchNorm's increment of `num_batches_tracked`."""
    if node.target is not _ATEN.add_.Tensor or node.users:
        return False
    counter = node.args[0]
    return isinstance(counter, Node) and counter.name.endswith("num_batches_tracked")
