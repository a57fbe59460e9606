"""How raw bytes become tensors: the two tables of a `.pt2` archive, checked and written anew."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.pt2._refusal import refused
from bn_ops.pt2._tensors import clean_path, clean_tensor

__all__ = ["clean_payloads"]


def clean_payloads(table: Any, members: Collection[str], folder: str) -> dict[str, Any]:
    """Return the table of weights or constants, with raw tensors only.

    Args:
        table: the JSON as it came.
        members: names of the members that hold raw bytes.
        folder: where those of this table lie, with a slash at its end.

    Raises:
        ModelInvalidError: it is no such table.
        ModelUnsafeError: an entry is pickled, or no tensor.
    """
    config = table.get("config") if isinstance(table, dict) else None
    if not isinstance(config, dict):
        raise ModelInvalidError("the .pt2 file has no table of its tensors")
    return {
        "config": {clean_path(name): _entry(one, members, folder) for name, one in config.items()}
    }


def _entry(entry: Any, members: Collection[str], folder: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ModelInvalidError("the .pt2 file has a table of tensors with something else in it")
    name = entry.get("path_name")
    if entry.get("use_pickle") is not False:
        raise refused("a pickled tensor or object", name)
    if not isinstance(name, str) or f"{folder}{name}" not in members:
        raise refused("a payload that is no raw tensor", name)
    return {
        "path_name": name,
        "is_param": entry.get("is_param") is True,
        "use_pickle": False,
        "tensor_meta": clean_tensor(entry.get("tensor_meta")),
    }
