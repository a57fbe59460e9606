"""The members of a `.pt2` archive, read with budgets and no code."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.pt2._refusal import refused

__all__ = ["Archive", "read_archive", "strict_json"]

# One network per archive, under the name that torch.export.save gives it.
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"

_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,7}")
# Present in every file, and written anew: nothing of theirs is used. Sample inputs are a pickle.
_LEFT_OUT = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|data/sample_inputs/model\.pt|\.format_version|version"
)

_MOST_MEMBERS = 100_000
# A description of some thousand operators; larger ones than any known network.
_MOST_JSON_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What a file holds that is of use.

    Attributes:
        program: the JSON of the network.
        weights, constants: the JSON that says how payloads become tensors.
        payloads: raw bytes of tensors by member name.
    """

    program: Any
    weights: Any
    constants: Any
    payloads: Mapping[str, bytes]


def read_archive(path: Path) -> Archive:
    """Read the members that describe a network; refuse a file that has any other.

    Raises:
        ModelInvalidError: no such archive, or a damaged one.
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
    """Return the members by name, without the folder that all of them lie in."""
    infos = file.infolist()
    if not 0 < len(infos) <= _MOST_MEMBERS:
        raise ModelInvalidError(f"the .pt2 file has {len(infos)} members")
    root = infos[0].filename.partition("/")[0] + "/"
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removeprefix(root)
        known = name in {MODEL, WEIGHTS, CONSTANTS} or _PAYLOAD.fullmatch(name)
        if not known and not _LEFT_OUT.fullmatch(name):
            raise refused("a member of another kind", info.filename)
        # torch stores what it writes: without compression there is no bomb.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise refused("a compressed or encrypted member", info.filename)
        if name in found:
            raise refused("a member twice", info.filename)
        found[name] = info
    return found


def _json(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > _MOST_JSON_BYTES:
        raise ModelInvalidError(f"{info.filename!r} has {info.file_size:,} bytes")
    return strict_json(file.read(info), info.filename)


def strict_json(data: bytes | str, what: str) -> Any:
    """Parse JSON in which no key stands twice.

    Raises:
        ModelInvalidError: it is something else, or too deep.
    """
    try:
        return json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelInvalidError(f"{what!r} is no JSON of a network: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
