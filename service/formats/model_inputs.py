"""The JSON form of a model's inputs, as the ledger and the workers exchange it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bn_ops.core.signature import TensorInfo


def inputs_from_json(table: Iterable[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    """Return inputs from their JSON form."""
    return tuple(
        TensorInfo(
            name=item["name"],
            dtype=item["dtype"],
            shape=None if item["shape"] is None else tuple(item["shape"]),
        )
        for item in table
    )
