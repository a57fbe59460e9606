"""Run steps of torch's exporter: without its output, and with its failures as ExportError."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from bn_ops.errors import BnOpsError, ExportError

if TYPE_CHECKING:
    import torch

__all__ = ["exporter_step"]

# What to try, by keywords of the exporter's message; the first match applies.
_ADVICE = (
    (
        ("specialized", "Constraints violated", "ConstraintViolation"),
        (
            "the code ties the batch axis to the example's size; use x.shape[0] or -1 instead of "
            "a number, or export with dynamic_batch=False"
        ),
    ),
    (
        ("data-dependent", "GuardOnDataDependent", "Could not guard", "Dynamic control flow"),
        (
            "the code branches on values of a tensor; use torch.where or torch.cond there, or "
            "recalibrate the module itself, which needs no tracing"
        ),
    ),
    (
        ("No ONNX function found", "No decompositions registered", "UnsupportedFx"),
        "an operator is not supported in ONNX; replace it, or recalibrate the module itself",
    ),
    (
        ("Expected all tensors to be on the same device", "on the same device"),
        "put module and example_inputs on the same device",
    ),
)
_DEFAULT_ADVICE = (
    "call the module on example_inputs in eval mode first; if that works, make an ExportedProgram "
    "with torch.export.export and pass that instead"
)
_MAX_REASON = 1200
# What the exporter appends to its message: how to debug the exporter.
_BOILERPLATE = (
    "\nFor more information, run with",
    "\nThe error above occurred when calling torch.export",
    "\nFor extended logs",
)


@contextmanager
def exporter_step(step: str, *, module: torch.nn.Module | None) -> Iterator[None]:
    """Run a step of the exporter quietly and raise every failure as an ExportError.

    Args:
        step: description of the step, for the message.
        module: root of the tree in which to look for the failing module.
    """
    try:
        with _quiet():
            yield
    except BnOpsError:
        raise
    except Exception as error:
        path = None if module is None else _failing_path(error, module)
        raise _export_error(step, error, path) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, logging and stderr, then restore all three.

    These are settings of the process: other threads are silenced for the same time.
    """
    # torch's loggers have levels and handlers of their own, so only `disable` affects them all.
    level_before = logging.root.manager.disable
    try:
        # torch.export prints the current graph to stderr when it fails.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            yield
    finally:
        logging.disable(level_before)


def _export_error(step: str, error: Exception, path: str | None) -> ExportError:
    reason = _reason(error)
    where = "" if path is None else f" in {path!r}" if path else " in the root module"
    advice = next((text for words, text in _ADVICE if any(w in reason for w in words)), None)
    shown = reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + " …"
    return ExportError(
        f"the exporter failed while {step}{where}: {type(error).__name__}: {shown}. "
        f"What to try: {advice or _DEFAULT_ADVICE}"
    )


def _reason(error: BaseException) -> str:
    """Return the message of the innermost cause, without the exporter's own advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    for phrase in _BOILERPLATE:
        text = text.partition(phrase)[0]
    return text.strip().rstrip(".")


def _failing_path(error: BaseException, module: torch.nn.Module) -> str | None:
    """Return the path of the innermost module among the `self` of the traceback's frames."""
    paths = {id(child): name for name, child in module.named_modules()}
    found: str | None = None
    chain: BaseException | None = error
    while chain is not None and found is None:
        found = _innermost(chain.__traceback__, paths)
        chain = chain.__cause__ or chain.__context__
    return found


def _innermost(trace: TracebackType | None, paths: dict[int, str]) -> str | None:
    found: str | None = None
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = paths.get(id(owner), found)
        trace = trace.tb_next
    return found
