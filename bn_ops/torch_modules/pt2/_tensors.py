"""Check the descriptions of tensors in a `.pt2` file and rebuild them: dense, on the CPU."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.torch_modules.pt2._archive import refused
from bn_ops.torch_modules.pt2._grammars import clean_expression

__all__ = ["clean_path", "clean_payloads", "clean_size", "clean_tensor"]

_PATH = re.compile(r"[A-Za-z0-9_][\w.]{0,511}")

_FIELDS = frozenset(
    {"dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout"}
)
# Bound on a size, an offset or a type, so that products of two do not wrap around unnoticed.
_MAX_NUMBER = 1 << 48
_STRIDED = 7


def clean_path(value: Any) -> str:
    """Return the path of a tensor in its network.

    Raises:
        ModelUnsafeError: it is not a valid path.
    """
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise refused("the name of a tensor", value)
    return value


def clean_tensor(meta: Any) -> dict[str, Any]:
    """Return the description of a tensor as torch writes it, placed on the CPU.

    Raises:
        ModelInvalidError: it is not such a description.
        ModelUnsafeError: a symbolic size is not allowed.
    """
    if not isinstance(meta, dict) or set(meta) != _FIELDS or meta["layout"] != _STRIDED:
        raise ModelInvalidError("the .pt2 file contains a tensor that is not dense")
    return {
        "dtype": _number(meta["dtype"]),
        "sizes": [clean_size(one) for one in _listed(meta["sizes"])],
        "requires_grad": meta["requires_grad"] is True,
        "device": {"type": "cpu", "index": None},
        "strides": [clean_size(one) for one in _listed(meta["strides"])],
        "storage_offset": clean_size(meta["storage_offset"]),
        "layout": _STRIDED,
    }


def clean_size(value: Any) -> dict[str, Any]:
    """Return a size: `{"as_int": n}`, or `{"as_expr": …}` with an allowed expression."""
    if isinstance(value, dict) and set(value) == {"as_int"}:
        return {"as_int": _number(value["as_int"])}
    if not isinstance(value, dict) or set(value) != {"as_expr"}:
        raise ModelInvalidError(
            "the .pt2 file contains a size that is neither a number nor an expression"
        )
    expression = value["as_expr"]
    if not isinstance(expression, dict) or not set(expression) <= {"expr_str", "hint"}:
        raise ModelInvalidError("the .pt2 file contains a symbolic size with unknown members")
    hint = expression.get("hint")
    if hint is not None:
        hint = {"as_int": _number(hint.get("as_int") if isinstance(hint, dict) else None)}
    return {"as_expr": {"expr_str": clean_expression(expression.get("expr_str")), "hint": hint}}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ModelInvalidError("the .pt2 file contains a tensor whose sizes are not a list")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ModelInvalidError(f"the .pt2 file contains {value!r} as a size or type of a tensor")
    return value


def clean_payloads(table: Any, members: Collection[str], folder: str) -> dict[str, Any]:
    """Return the table of weights or constants, with only raw tensors.

    Args:
        table: the JSON of the file.
        members: names of the members with raw bytes.
        folder: their folder for this table, with a trailing slash.

    Raises:
        ModelInvalidError: it is not such a table.
        ModelUnsafeError: an entry is pickled, or is not a tensor.
    """
    config = table.get("config") if isinstance(table, dict) else None
    if not isinstance(config, dict):
        raise ModelInvalidError("the .pt2 file has no table of its tensors")
    return {
        "config": {clean_path(name): _entry(one, members, folder) for name, one in config.items()}
    }


def _entry(entry: Any, members: Collection[str], folder: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ModelInvalidError("the .pt2 file has a table of tensors with an invalid entry")
    name = entry.get("path_name")
    if entry.get("use_pickle") is not False:
        raise refused("a pickled tensor or object", name)
    if not isinstance(name, str) or f"{folder}{name}" not in members:
        raise refused("a payload that is not a raw tensor", name)
    return {
        "path_name": name,
        "is_param": entry.get("is_param") is True,
        "use_pickle": False,
        "tensor_meta": clean_tensor(entry.get("tensor_meta")),
    }
