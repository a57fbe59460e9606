"""Module to exported program: eval mode, look-alikes as batch_norm, everything restored after."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import torch

from bn_ops.exporting._failures import translated_errors
from bn_ops.exporting._inputs import ExampleCall
from bn_ops.exporting._quiet import quiet
from bn_ops.torch_modules.frozen_batchnorm import frozen_eps, normalize
from bn_ops.torch_modules.module_state import set_eval, unchanged

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["traced"]


def traced(module: torch.nn.Module, call: ExampleCall) -> ExportedProgram:
    """Trace one call of the module in eval mode.

    Raises:
        ExportError: the module cannot be traced.
    """
    with ExitStack() as stack:
        stack.enter_context(translated_errors("tracing the module", module=module))
        stack.enter_context(quiet())
        stack.enter_context(torch.no_grad())
        stack.enter_context(unchanged(module))
        set_eval(module)
        _let_frozen_call_batch_norm(module)
        return torch.export.export(
            module,
            call.args,
            call.kwargs,
            dynamic_shapes=call.dynamic_shapes(module),
            strict=False,
        )


def _let_frozen_call_batch_norm(root: torch.nn.Module) -> None:
    """Replace the forward of frozen look-alikes by batch_norm, until the snapshot is restored."""
    for module in root.modules():
        eps = None if "forward" in module.__dict__ else frozen_eps(module)
        if eps is not None:
            module.__dict__["forward"] = partial(_normalized, module, eps)


def _normalized(module: torch.nn.Module, eps: float, x: torch.Tensor) -> torch.Tensor:
    return normalize(module, x, eps)
