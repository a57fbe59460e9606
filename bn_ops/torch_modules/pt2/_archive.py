"""Read the members of a `.pt2` archive within limits, without running code."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_ops.errors import ModelInvalidError, ModelUnsafeError

__all__ = ["CONSTANTS", "MODEL", "WEIGHTS", "Archive", "read_archive", "refused", "strict_json"]

# One network per archive, under the name that torch.export.save gives it.
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"

_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,7}")
# Present in every file but not used: they are written anew. Sample inputs are a pickle.
_IGNORED = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|data/sample_inputs/model\.pt|\.format_version|version"
)

_MAX_MEMBERS = 100_000
# Enough for some thousand operators, more than any known network has.
_MAX_JSON_BYTES = 64 << 20

# Characters of an untrusted text in a message.
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The parts of a file that are used.

    Attributes:
        program: the JSON of the network.
        weights, constants: the JSON that describes the tensors in the payloads.
        payloads: raw bytes of tensors by member name.
    """

    program: Any
    weights: Any
    constants: Any
    payloads: Mapping[str, bytes]


def read_archive(path: Path) -> Archive:
    """Read the members that describe a network; reject a file with any other member.

    Raises:
        ModelInvalidError: not such an archive, or a corrupt one.
        ModelUnsafeError: a member that is not on the list.
    """
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelInvalidError(f"the .pt2 file cannot be read: {error}") from error


def _read(file: zipfile.ZipFile) -> Archive:
    members = _members(file)
    missing = [name for name in (MODEL, WEIGHTS, CONSTANTS) if name not in members]
    if missing:
        raise ModelInvalidError(
            f"the .pt2 file lacks {missing[0]!r}: save it with torch.export.save of torch 2.9 or "
            "newer, or export it with bn_ops.export and send the ONNX file"
        )
    texts = {name: _json(file, members[name]) for name in (MODEL, WEIGHTS, CONSTANTS)}
    payloads = {name: file.read(info) for name, info in members.items() if _PAYLOAD.fullmatch(name)}
    return Archive(
        program=texts[MODEL],
        weights=texts[WEIGHTS],
        constants=texts[CONSTANTS],
        payloads=payloads,
    )


def _members(file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, without their common top folder."""
    infos = file.infolist()
    if not 0 < len(infos) <= _MAX_MEMBERS:
        raise ModelInvalidError(f"the .pt2 file has {len(infos)} members")
    root = infos[0].filename.partition("/")[0] + "/"
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removeprefix(root)
        known = name in {MODEL, WEIGHTS, CONSTANTS} or _PAYLOAD.fullmatch(name)
        if not known and not _IGNORED.fullmatch(name):
            raise refused("an unknown member", info.filename)
        # torch does not compress members; without compression there are no zip bombs.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise refused("a compressed or encrypted member", info.filename)
        if name in found:
            raise refused("a duplicate member", info.filename)
        found[name] = info
    return found


def _json(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > _MAX_JSON_BYTES:
        raise ModelInvalidError(f"{info.filename!r} has {info.file_size:,} bytes")
    return strict_json(file.read(info), info.filename)


def strict_json(data: bytes | str, what: str) -> Any:
    """Parse JSON without duplicate keys.

    Raises:
        ModelInvalidError: it is not such JSON, or nested too deeply.
    """
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelInvalidError(f"{what!r} is not valid JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a duplicate key")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def refused(what: str, found: object = None) -> ModelUnsafeError:
    """Build the error for a part that is not on the list of allowed parts."""
    text = "" if found is None else f": {str(found)[:_MAX_SHOWN]!r}"
    return ModelUnsafeError(
        f"the .pt2 file contains {what}{text}, which is not allowed because loading it could run "
        "code; export the model with bn_ops.export(program) where you trust it and send the ONNX "
        "file"
    )
