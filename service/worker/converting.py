"""Turn a `.pt2` file into ONNX; the file is a program, so nothing is done outside the sandbox."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from bn_ops.errors import ModelUnsupportedError
from service.executor.protocol import CONVERTED
from service.worker.spec import Spec

_NEEDED = ("landlock", "seccomp")


def convert(spec: Spec, protections: Mapping[str, bool]) -> None:
    """Write `CONVERTED` into the output folder.

    Raises:
        ModelUnsupportedError: this server cannot do it safely, or not at all.
        ModelUnsafeError, ModelInvalidError, ExportError: the file cannot be taken.
    """
    missing = [name for name in _NEEDED if not protections.get(name)]
    if missing:
        raise ModelUnsupportedError(
            f".pt2 files are programs, and on this server {' and '.join(missing)} cannot hold a "
            "worker in: export the model with bn_ops.export and send the ONNX file"
        )
    if importlib.util.find_spec("torch") is None:
        raise ModelUnsupportedError(
            "this server has no torch, which .pt2 files need: export the model with bn_ops.export "
            "and send the ONNX file"
        )
    from bn_ops.pt2 import load_pt2  # noqa: PLC0415 - torch is optional

    program = load_pt2(spec.model)
    # Only now: what is refused is refused before torch is loaded, which takes seconds.
    from bn_ops.exporting import export  # noqa: PLC0415 - torch is optional

    model = export(program)
    Path(spec.output, CONVERTED).write_bytes(model.SerializeToString(deterministic=True))
