"""Plain JSON values of frozen dataclasses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Json", "json_object", "jsonable"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def jsonable(value: object) -> Json:
    """Convert dataclasses, mappings, sequences and string enums; NaN and infinities become None."""
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return json_object(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def json_object(value: DataclassInstance) -> dict[str, Json]:
    """Convert one dataclass to a JSON object with a member per field."""
    return {f.name: jsonable(getattr(value, f.name)) for f in fields(value)}
