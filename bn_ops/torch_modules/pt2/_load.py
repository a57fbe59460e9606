"""Load an untrusted `.pt2` file by rewriting it into an archive of checked parts."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_ops.errors import ModelInvalidError
from bn_ops.torch_modules.pt2._archive import (
    CONSTANTS,
    MODEL,
    WEIGHTS,
    Archive,
    read_archive,
    refused,
)
from bn_ops.torch_modules.pt2._program import clean_program, operators
from bn_ops.torch_modules.pt2._tensors import clean_payloads

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["load_pt2"]

_ATEN = "torch.ops.aten."
# These do not compute: they read and write files, or print.
_NOT_ARITHMETIC = frozenset({"from_file", "save", "warn", "_print"})


def load_pt2(path: str | Path) -> ExportedProgram:
    """Load a program written by `torch.export.save` of torch 2.9 or newer.

    No code of the file runs: the description of the network is checked against a list and written
    to a new archive, which torch loads. Sample inputs, guards and metadata are dropped.

    Args:
        path: the file. Not changed.

    Raises:
        ModelInvalidError: the file is missing or corrupt, or torch cannot load it.
        ModelUnsafeError: a part could run code, or is not known to be safe.
    """
    return _loaded(_rewritten(Path(path)))


def _rewritten(path: Path) -> bytes:
    """Return an archive of checked parts only."""
    archive = read_archive(path)
    program = clean_program(archive.program)
    _check_operators(operators(program))
    return _written(archive, program)


def _written(archive: Archive, program: Mapping[str, Any]) -> bytes:
    names = archive.payloads
    parts: dict[str, bytes] = {
        MODEL: _text(program),
        WEIGHTS: _text(clean_payloads(archive.weights, names, "data/weights/")),
        CONSTANTS: _text(clean_payloads(archive.constants, names, "data/constants/")),
        "data/sample_inputs/model.pt": b"",
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"6\n",
        "byteorder": b"little",
        **archive.payloads,
    }
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as file:
        for name, data in parts.items():
            file.writestr(f"model/{name}", data)
    return memory.getvalue()


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _check_operators(targets: Iterable[str]) -> None:
    """Reject operators that torch does not have, or that have side effects."""
    import torch  # noqa: PLC0415 - torch is optional

    for target in sorted(targets):
        if not target.startswith(_ATEN):
            continue
        name, overload = target.removeprefix(_ATEN).split(".")
        packet = getattr(torch.ops.aten, name, None)
        operator = getattr(packet, overload, None) if packet is not None else None
        if not isinstance(operator, torch._ops.OpOverload) or name in _NOT_ARITHMETIC:  # noqa: SLF001 - not public elsewhere
            raise refused("an operator that is not allowed", target)


def _loaded(data: bytes) -> ExportedProgram:
    import torch  # noqa: PLC0415 - torch is optional

    try:
        with _quiet():
            return torch.export.load(io.BytesIO(data))
    except Exception as error:
        # torch raises whatever its parsers raise.
        raise ModelInvalidError(
            f"torch cannot load the .pt2 file: {type(error).__name__}: {str(error)[:500]}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's log messages, which repeat the error."""
    import logging  # noqa: PLC0415 - only used here

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
