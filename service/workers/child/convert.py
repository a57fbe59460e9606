"""Convert an uploaded archive to one ONNX file.

An archive holds a model with its data files, or is a `.pt2` file. A `.pt2` file is a program, so it
is only opened inside the sandbox. External data is read from the members of the archive only: they
are extracted to the worker's own folder, and `bn_ops.onnx_files.read_write` resolves file names
there by its own rules.
"""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bn_ops.errors import ModelInvalidError, ModelUnsupportedError
from bn_ops.onnx_files.large_models import MESSAGE_LIMIT, exceeds, serialized
from bn_ops.onnx_files.read_write import read_model
from service.errors import BatchMalformedError, BatchUnpackedTooLargeError
from service.formats import zips
from service.formats.members import MAX_MEMBERS, Member, shown
from service.workers.child.inspect_model import inspect
from service.workers.messages import CONVERTED, WorkerTask

_REQUIRED = ("landlock", "seccomp")
_MODEL_SUFFIX = ".onnx"


def convert(task: WorkerTask, sandbox: Mapping[str, bool]) -> None:
    """Write `CONVERTED` into the output folder.

    Raises:
        ModelUnsupportedError: this server cannot convert it safely, or at all.
        ModelUnsafeError, ModelInvalidError, ExportError: the file is not accepted.
    """
    archive, output = Path(task.model), Path(task.output)
    if holds_model(archive):
        limit = int(task.options["model_limit_bytes"])
        content = embedded(archive, output, limit_bytes=limit)
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
    from bn_ops.torch_modules.pt2 import load_pt2  # noqa: PLC0415 - torch is optional

    program = load_pt2(task.model)
    # Imported late: loading torch takes seconds, and most refusals come before it is needed.
    from bn_ops.exporting import export  # noqa: PLC0415 - torch is optional

    return serialized(export(program))


def holds_model(path: Path) -> bool:
    """Return whether a file is a zip archive with an ONNX file in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(_MODEL_SUFFIX) for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False  # the next reader reports what is wrong


def embedded(
    archive: Path, folder: Path, *, limit_bytes: int, max_members: int = MAX_MEMBERS
) -> bytes:
    """Return the archive's model with all external data embedded, as the bytes of an ONNX file.

    Args:
        archive: a zip archive of one `.onnx` file and its data files.
        folder: for extracted members; they are removed again.
        limit_bytes: maximum size of all members after unpacking.
        max_members: maximum number of members.

    Raises:
        ModelInvalidError: it is not such an archive, has no model, or unpacks to too much.
        ExternalDataError: external data is missing in the archive, or its file name is not allowed.
        ModelUnsupportedError: it exceeds the maximum size of a protobuf message.
    """
    unpacked = folder / "unpacked"
    try:
        with archive.open("rb") as file:
            members = zips.members(file, limit_bytes=limit_bytes, max_members=max_members)
            model = _unpack(members, unpacked)
        return _read(model)
    except BatchUnpackedTooLargeError as error:
        raise ModelInvalidError(
            f"the archive exceeds a limit: {limit_bytes} bytes unpacked in total, "
            f"{max_members} files, {zips.MAX_EXPANSION} times a file's compressed size; include "
            "only the model and its data files, uncompressed (zip -0)"
        ) from error
    except BatchMalformedError as error:
        raise ModelInvalidError(error.message) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(members: Sequence[Member], folder: Path) -> Path:
    """Extract the members to an empty folder; return the path of the model."""
    models = [one.name for one in members if one.name.lower().endswith(_MODEL_SUFFIX)]
    if len(models) != 1:
        found = ", ".join(shown(name) for name in models[:5])
        raise ModelInvalidError(
            f"the archive holds {len(models)} .onnx files ({found}): send one model at a time, "
            "with its data files"
        )
    for member in members:
        path = folder / member.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(member.read())
        except (FileExistsError, NotADirectoryError) as error:
            raise ModelInvalidError(
                f"the member {shown(member.name)} is both a file and a folder"
            ) from error
    return folder / models[0]


def _read(path: Path) -> bytes:
    try:
        model = read_model(path)
    except OSError:
        raise
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise ModelInvalidError("the archive's .onnx file is not an ONNX model") from error
    if exceeds(model):
        raise ModelUnsupportedError(
            f"the model with its tensors exceeds {MESSAGE_LIMIT:,} bytes, the limit of this "
            "server: recalibrate it in process, with bn_ops.adapt"
        )
    return serialized(model)
