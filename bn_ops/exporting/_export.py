"""The public function of this package."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from bn_ops.errors import ExportError, ModelUnsupportedError
from bn_ops.exporting._cleaning import clean
from bn_ops.exporting._inputs import ExampleCall
from bn_ops.exporting._naming import name_everything, name_inputs, name_outputs
from bn_ops.exporting._program import evaluated, traced
from bn_ops.exporting._translation import to_onnx_ir
from bn_ops.onnx_files.large_models import within_message

__all__ = ["export"]


def export(
    module_or_program: torch.nn.Module | ExportedProgram,
    example_inputs: Any = (),
    *,
    dynamic_batch: bool = True,
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

    Returns:
        A checked ONNX model, opset 20, with the dynamic axis named `batch`. The same call on the
        same module gives the same bytes.

    Raises:
        ExportError: the exporter does not support the module; the message has its reason, the
            failing module's path where known, and what to try.
        ModelUnsupportedError: the argument is neither a module nor a program.
    """
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
    return _checked(model)


def _checked(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(within_message(proto), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exporter wrote a model that the ONNX checker rejects: {error}"
        ) from error
    return proto
