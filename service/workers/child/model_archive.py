"""ONNX models whose tensors lie in other files, uploaded as one zip archive.

What such a model names is looked for among the members of its archive and nowhere else: they are
written to the job's own folder, and `bn_ops.onnx_files.read_write` follows names from there by its
rules.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bn_ops.errors import ModelInvalidError, ModelUnsupportedError
from bn_ops.onnx_files.large_models import MESSAGE_LIMIT, exceeds, serialized
from bn_ops.onnx_files.read_write import read_model
from service.errors import BatchMalformedError, BatchUnpackedTooLargeError
from service.formats import zips
from service.formats.members import MAX_MEMBERS, Member, shown

_MODEL_SUFFIX = ".onnx"


def holds_model(path: Path) -> bool:
    """Tell whether a file is a zip archive with an ONNX file in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(_MODEL_SUFFIX) for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False  # whoever reads it next says what is wrong


def embedded(archive: Path, folder: Path, *, limit_bytes: int) -> bytes:
    """Return the archive's model with all its tensors inside, as the bytes of an ONNX file.

    Args:
        archive: a zip archive of one `.onnx` file and the files that it names.
        folder: where the members may lie meanwhile; none of them is left.
        limit_bytes: most bytes that all members may unpack to.

    Raises:
        ModelInvalidError: no such archive, or no model in it, or it unpacks to too much.
        ExternalDataError: a tensor lies in a file that the archive does not hold, or must not name.
        ModelUnsupportedError: it is larger than one message can be.
    """
    unpacked = folder / "unpacked"
    try:
        with archive.open("rb") as file:
            model = _unpack(zips.members(file, limit_bytes=limit_bytes), unpacked)
        return _read(model)
    except BatchUnpackedTooLargeError as error:
        raise ModelInvalidError(
            f"the archive unpacks to more than a model may: {limit_bytes} bytes in all, "
            f"{MAX_MEMBERS} files, {zips.MAX_EXPANSION} times a file's packed size; pack nothing "
            "but the files that the model names, and those as they are (zip -0)"
        ) from error
    except BatchMalformedError as error:
        raise ModelInvalidError(error.message) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(members: Sequence[Member], folder: Path) -> Path:
    """Write the members to an empty folder; return the path of the one that is the model."""
    models = [one.name for one in members if one.name.lower().endswith(_MODEL_SUFFIX)]
    if len(models) != 1:
        found = ", ".join(shown(name) for name in models[:5])
        raise ModelInvalidError(
            f"the archive holds {len(models)} .onnx files ({found}): send one model at a time, "
            "with the files that its tensors lie in"
        )
    for member in members:
        path = folder / member.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(member.read())
        except (FileExistsError, NotADirectoryError) as error:
            raise ModelInvalidError(
                f"the member {shown(member.name)} is a file and a folder at once"
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
            f"the model has more than {MESSAGE_LIMIT:,} bytes with its tensors, which is more than "
            "this server takes: recalibrate it in process, with bn_ops.adapt"
        )
    return serialized(model)
