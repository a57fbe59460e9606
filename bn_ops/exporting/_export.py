"""The public function of this package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from bn_ops.errors import ExportError, ModelUnsupportedError
from bn_ops.exporting._cleaning import clean
from bn_ops.exporting._exporter_steps import exporter_step
from bn_ops.exporting._inputs import ExampleCall
from bn_ops.exporting._naming import name_everything, name_inputs, name_outputs
from bn_ops.onnx_files.deployment.request import Deployment
from bn_ops.onnx_files.large_models import within_message
from bn_ops.torch_modules.frozen_batchnorm import frozen_eps, normalize
from bn_ops.torch_modules.module_state import set_eval, unchanged

__all__ = ["OPSET", "evaluated", "export", "to_onnx_ir", "traced"]

# Translate an exported program to an ONNX graph with torch's exporter, its optimizer off.
#
# With `optimize=True`, the default, the exporter folds a convolution and the BatchNorm after it
# into one node, and the file can no longer be recalibrated. `bn_ops.exporting._cleaning` never
# does.

OPSET = 20


def to_onnx_ir(program: ExportedProgram) -> ir.Model:
    """Translate a program operator by operator.

    Raises:
        ExportError: an operator is not supported in ONNX.
    """
    with exporter_step("translating it to ONNX", module=None):
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            external_data=False,
            custom_translation_table=_translations(),
        )
        assert onnx_program is not None
        return onnx_program.model


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    from onnxscript import opset20  # noqa: PLC0415 - takes seconds to load

    op: Any = opset20

    def filled(number: float, like: Any) -> Any:
        scalar = op.CastLike(op.Constant(value_float=number), like)
        return op.Expand(scalar, op.Shape(like))

    def batch_norm(  # noqa: PLR0917 - the operator's own order
        x: Any,
        weight: Any = None,
        bias: Any = None,
        running_mean: Any = None,
        running_var: Any = None,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> tuple[Any, Any, Any]:
        """Emit one node per layer; torch's own form expands a missing scale to the input."""
        if weight is None:
            weight = filled(1.0, running_mean)
        if bias is None:
            bias = filled(0.0, running_mean)
        y = op.BatchNormalization(
            x, weight, bias, running_mean, running_var, epsilon=eps, momentum=1.0 - momentum
        )
        nothing = op.Constant(value_floats=[0.0])
        return y, nothing, nothing

    return {torch.ops.aten._native_batch_norm_legit_no_training.default: batch_norm}  # noqa: SLF001


# Exported programs in eval mode: traced from a module, or converted from a training program.

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


def export(
    module_or_program: torch.nn.Module | ExportedProgram,
    example_inputs: Any = (),
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
    target: str | None = None,
) -> onnx.ModelProto:
    """Export a module to ONNX with every BatchNorm kept as a node in inference form.

    The module is traced in eval mode, whatever the modes of its children. It is not changed: modes,
    hooks, parameters and buffers are restored, also when the exporter fails.

    Names: a BatchNormalization node has the path of its module (`layer1.0.bn2`); the second and
    later calls of one module get `#2`, `#3`, …; a functional `batch_norm` has the path of the
    module that calls it (`batch_norm` for the root). Each layer has its own statistics
    `<layer>.running_mean` and `<layer>.running_var`, even where a module is called twice; other
    initializers have their state-dict path.

    Args:
        module_or_program: a module, or a program from `torch.export.export`. Modified: no.
        example_inputs: arguments of one call: a tensor, a tuple or list of positional arguments, or
            a dict of named arguments (a dict whose keys are not parameter names of `forward` is
            passed as the only positional argument). Tensors must be on the module's device.
            Ignored for a program, which has its own.
        dynamic_batch: make the first axis of every input tensor dynamic that is as long as the
            first tensor's. A program keeps the axes with which it was exported.
        opset: version of ONNX's default operator set; default 20, or the nearest that the target
            supports. A converted model is compared with the original on the example.
        target: where the model is deployed, as for `bn_ops.adapt`.

    Labels of the example (parameters of `forward` that are optional and named as transformers names
    labels) are left out, and with them the loss.

    Returns:
        A checked ONNX model with the dynamic axis named `batch`. The same call on the
        same module gives the same bytes.

    Raises:
        ExportError: the exporter does not support the module; the message has its reason, the
            failing module's path where known, and what to try.
        ModelUnsupportedError: the argument is neither a module nor a program.
        TargetError: the opset or the target lacks an operator of the model.
    """
    deployment = Deployment(opset=opset, target=target)
    if isinstance(module_or_program, ExportedProgram):
        program, call = evaluated(module_or_program), None
    elif isinstance(module_or_program, torch.jit.ScriptModule):
        raise ModelUnsupportedError(
            "a TorchScript module cannot be exported: pass the original nn.Module"
        )
    elif isinstance(module_or_program, torch.nn.Module):
        call = ExampleCall.of(module_or_program, example_inputs, dynamic_batch=dynamic_batch)
        program = traced(module_or_program, call)
    else:
        raise ModelUnsupportedError(
            "export takes a torch.nn.Module or a torch.export.ExportedProgram, "
            f"got {type(module_or_program).__name__}"
        )
    model = to_onnx_ir(program)
    name_inputs(model, program, call)
    name_outputs(model, program)
    clean(model)
    name_everything(model)
    exported = _checked(model)
    samples = [] if call is None else [call.arrays()]
    exported = deployment.converted(exported, samples)
    deployment.check(exported)
    return exported


def _checked(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(within_message(proto), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exporter wrote a model that the ONNX checker rejects: {error}"
        ) from error
    return proto
