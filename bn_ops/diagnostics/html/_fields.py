"""Reading a report's JSON form without trusting its shape, and writing its numbers for a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

__all__ = [
    "Fields",
    "cut",
    "factor",
    "fields",
    "items",
    "number",
    "short",
    "strings",
    "text",
    "whole",
]

Fields: TypeAlias = Mapping[str, object]

# Longest text shown of one value, in characters. An ONNX node may be called anything of any length.
_LONGEST = 300

# exp of more overflows a float; such a ratio comes from a channel that had no variance.
_LARGEST_LOG = 700.0


def fields(of: Fields, key: str) -> Fields:
    """Return a mapping, empty where there is none."""
    value = of.get(key)
    return value if isinstance(value, Mapping) else {}


def items(of: Fields, key: str) -> list[Fields]:
    """Return the mappings of a list, none where there is no list."""
    value = of.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def strings(of: Fields, key: str) -> list[str]:
    """Return a list's items as texts."""
    value = of.get(key)
    return [cut(str(item)) for item in value] if isinstance(value, list) else []


def text(of: Fields, key: str) -> str:
    """Return a value as text of bounded length, empty for null."""
    value = of.get(key)
    return "" if value is None else cut(str(value))


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def short(value: object) -> str:
    """Write a number with three significant digits, a dash for none."""
    known = number(value)
    return "–" if known is None else f"{known:.3g}"


def factor(log_ratio: float | None) -> str:
    """Write |ln ratio| as a factor of at least 1."""
    return "–" if log_ratio is None else f"×{math.exp(min(log_ratio, _LARGEST_LOG)):.3g}"


def whole(value: object) -> str:
    """Write a count with separators, a dash for none."""
    return f"{value:,}" if isinstance(value, int) else "–"


def cut(value: str) -> str:
    """Bound the length of a text that came from a model."""
    if len(value) <= _LONGEST:
        return value
    return f"{value[:_LONGEST]}… ({len(value):,} characters)"
