"""Turn an uploaded archive into one ONNX file: a model with its data files, or a `.pt2` program.

A `.pt2` file is a program, so nothing is done with it outside the sandbox.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from bn_ops.errors import ModelInvalidError, ModelUnsupportedError
from bn_ops.onnx_files.large_models import serialized
from service.workers.child import model_archive as bundles
from service.workers.child.inspect_model import describe
from service.workers.messages import Spec
from service.workers.protocol import CONVERTED

_NEEDED = ("landlock", "seccomp")


def convert(spec: Spec, protections: Mapping[str, bool]) -> None:
    """Write `CONVERTED` into the output folder.

    Raises:
        ModelUnsupportedError: this server cannot do it safely, or not at all.
        ModelUnsafeError, ModelInvalidError, ExportError: the file cannot be taken.
    """
    archive, output = Path(spec.model), Path(spec.output)
    if bundles.holds_model(archive):
        limit = int(spec.options["model_limit_bytes"])
        content = bundles.embedded(archive, output, limit_bytes=limit)
    elif spec.options["pt2"]:
        content = _exported(spec, protections)
    else:
        # Neither: the reader of models knows what it is and says it by name.
        describe(spec)
        raise ModelInvalidError("this archive is no model")
    (output / CONVERTED).write_bytes(content)


def _exported(spec: Spec, protections: Mapping[str, bool]) -> bytes:
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

    return serialized(export(program))
