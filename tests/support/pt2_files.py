"""`.pt2` files for tests: valid files, and copies with replaced members."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODEL", "Small", "edited", "exchanged", "runs_code", "saved"]

MODEL = "models/model.json"
_ROOT = "model/"


class Small(nn.Module):
    """Convolution, BatchNorm and a head, with statistics far from those of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        features = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        y: Tensor = self.head(features)
        return y


def saved(
    module: nn.Module, args: tuple[Any, ...], path: Path, *, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """Save a module with a free first axis by torch, and return the program."""
    shapes = tuple({0: torch.export.Dim.AUTO} if dynamic else None for _ in args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), args, dynamic_shapes=shapes)
        torch.export.save(program, path)
    return program


def exchanged(
    source: Path, target: Path, members: Mapping[str, bytes | Callable[[bytes], bytes]], **how: Any
) -> Path:
    """Copy an archive with replaced or added members.

    Args:
        source: the valid file.
        target: path of the copy.
        members: new bytes, or a function of the old ones, by name within the archive's folder.
        ***how: options of `zipfile.ZipFile`.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        root = old.namelist()[0].partition("/")[0] + "/"
        for info in old.infolist():
            name = info.filename.removeprefix(root)
            change = members.get(name)
            data = old.read(info)
            new.writestr(_ROOT + name, change(data) if callable(change) else change or data)
        have = {info.filename.removeprefix(root) for info in old.infolist()}
        for name in members.keys() - have:
            added = members[name]
            assert isinstance(added, bytes)
            new.writestr(_ROOT + name, added)
    return target


def edited(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    """Return a function that applies `change` to the JSON of a member."""

    def apply(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return apply


class _Touch:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._marker,))


def runs_code(marker: Path) -> bytes:
    """Return a pickle that creates a file when it is loaded."""
    return pickle.dumps(_Touch(marker))
