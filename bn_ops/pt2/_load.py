"""From an untrusted `.pt2` file to a program that torch has loaded from our own archive."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_ops.errors import ModelInvalidError
from bn_ops.pt2._archive import CONSTANTS, MODEL, WEIGHTS, Archive, read_archive
from bn_ops.pt2._payloads import clean_payloads
from bn_ops.pt2._program import clean_program, operators
from bn_ops.pt2._refusal import refused

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["load_pt2"]

_ATEN = "torch.ops.aten."
# They take no tensor to another: they read and write files, or speak.
_NOT_ARITHMETIC = frozenset({"from_file", "save", "warn", "_print"})


def load_pt2(path: str | Path) -> ExportedProgram:
    """Load a program that `torch.export.save` of torch 2.9 or newer has written.

    No code of the file runs: what describes the network is checked against a list and written into
    a new archive, and torch loads that. Sample inputs, guards and notes are left out.

    Args:
        path: the file. Not changed.

    Raises:
        ModelInvalidError: no such file, a damaged one, or one that torch cannot load.
        ModelUnsafeError: a part that could run code, or that nobody has checked.
    """
    return _loaded(_rewritten(Path(path)))


def _rewritten(path: Path) -> bytes:
    """Return an archive of checked parts only; the one that was read is forgotten here."""
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
    """Refuse operators that torch does not have, or that do something else than compute."""
    import torch  # noqa: PLC0415 - torch is optional

    for target in sorted(targets):
        if not target.startswith(_ATEN):
            continue
        name, overload = target.removeprefix(_ATEN).split(".")
        packet = getattr(torch.ops.aten, name, None)
        operator = getattr(packet, overload, None) if packet is not None else None
        if not isinstance(operator, torch._ops.OpOverload) or name in _NOT_ARITHMETIC:  # noqa: SLF001 - its only home
            raise refused("an operator of another kind", target)


def _loaded(data: bytes) -> ExportedProgram:
    import torch  # noqa: PLC0415 - torch is optional

    try:
        with _quiet():
            return torch.export.load(io.BytesIO(data))
    except Exception as error:
        # torch raises whatever its parsers raise; a traceback of them helps nobody.
        raise ModelInvalidError(
            f"torch cannot load the .pt2 file: {type(error).__name__}: {str(error)[:500]}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging what the error says anyway."""
    import logging  # noqa: PLC0415 - used here only

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
