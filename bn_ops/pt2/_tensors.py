"""Descriptions of tensors in a `.pt2` file: dense, on the CPU, of numbered or symbolic size."""

from __future__ import annotations

import re
from typing import Any

from bn_ops.errors import ModelInvalidError
from bn_ops.pt2._expressions import clean_expression
from bn_ops.pt2._refusal import refused

__all__ = ["clean_path", "clean_size", "clean_tensor"]

_PATH = re.compile(r"[A-Za-z_][\w.]{0,511}")

_FIELDS = frozenset(
    {"dtype", "sizes", "requires_grad", "device", "strides", "storage_offset", "layout"}
)
# Of a size, an offset or a type: no product of them wraps around in 64 bits unnoticed.
_LARGEST = 1 << 48
_STRIDED = 7


def clean_path(value: Any) -> str:
    """Return the path of a tensor in its network.

    Raises:
        ModelUnsafeError: it is none.
    """
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise refused("the name of a tensor", value)
    return value


def clean_tensor(meta: Any) -> dict[str, Any]:
    """Return the description of a tensor as torch writes it, placed on the CPU.

    Raises:
        ModelInvalidError: it is none.
        ModelUnsafeError: a symbolic size that is not allowed.
    """
    if not isinstance(meta, dict) or set(meta) != _FIELDS or meta["layout"] != _STRIDED:
        raise ModelInvalidError("the .pt2 file holds a tensor that is not dense")
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
    """Return a size: `{"as_int": n}`, or `{"as_expr": …}` with an expression that is allowed."""
    if isinstance(value, dict) and set(value) == {"as_int"}:
        return {"as_int": _number(value["as_int"])}
    if not isinstance(value, dict) or set(value) != {"as_expr"}:
        raise ModelInvalidError("the .pt2 file holds a size that is neither number nor expression")
    expression = value["as_expr"]
    if not isinstance(expression, dict) or not set(expression) <= {"expr_str", "hint"}:
        raise ModelInvalidError("the .pt2 file holds a symbolic size with unknown parts")
    hint = expression.get("hint")
    if hint is not None:
        hint = {"as_int": _number(hint.get("as_int") if isinstance(hint, dict) else None)}
    return {"as_expr": {"expr_str": clean_expression(expression.get("expr_str")), "hint": hint}}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ModelInvalidError("the .pt2 file holds a tensor whose sizes are no list")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ModelInvalidError(f"the .pt2 file holds {value!r} as a size or type of a tensor")
    return value
