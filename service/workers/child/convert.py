"""Convert an uploaded archive to one ONNX file.

An archive holds a model with its data files, or is a `.pt2` file. A `.pt2` file is a program, so it
is only opened inside the sandbox.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from bn_ops.errors import ModelInvalidError, ModelUnsupportedError
from bn_ops.onnx_files.large_models import serialized
from service.workers.child import model_archive
from service.workers.child.inspect_model import inspect
from service.workers.messages import CONVERTED, WorkerTask

_REQUIRED = ("landlock", "seccomp")


def convert(task: WorkerTask, sandbox: Mapping[str, bool]) -> None:
    """Write `CONVERTED` into the output folder.

    Raises:
        ModelUnsupportedError: this server cannot convert it safely, or at all.
        ModelUnsafeError, ModelInvalidError, ExportError: the file is not accepted.
    """
    archive, output = Path(task.model), Path(task.output)
    if model_archive.holds_model(archive):
        limit = int(task.options["model_limit_bytes"])
        content = model_archive.embedded(archive, output, limit_bytes=limit)
    elif task.options["pt2"]:
        content = _exported(task, sandbox)
    else:
        # Neither: inspection names the kind of file in its error.
        inspect(task)
        raise ModelInvalidError("this archive is not a model")
    (output / CONVERTED).write_bytes(content)


def _exported(task: WorkerTask, sandbox: Mapping[str, bool]) -> bytes:
    missing = [name for name in _REQUIRED if not sandbox.get(name)]
    if missing:
        raise ModelUnsupportedError(
            f".pt2 files are programs; this server has no {' and no '.join(missing)} to "
            "restrict a worker: export the model with bn_ops.export and send the ONNX file"
        )
    if importlib.util.find_spec("torch") is None:
        raise ModelUnsupportedError(
            "this server has no torch, which .pt2 files require: export the model with "
            "bn_ops.export and send the ONNX file"
        )
    from bn_ops.pt2 import load_pt2  # noqa: PLC0415 - torch is optional

    program = load_pt2(task.model)
    # Imported late: loading torch takes seconds, and most refusals come before it is needed.
    from bn_ops.exporting import export  # noqa: PLC0415 - torch is optional

    return serialized(export(program))
