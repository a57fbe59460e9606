"""Models in the ledger, and where their bytes lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bn_ops.signature import TensorInfo
from service.errors import NotFoundError
from service.ledger.protocol import Row, Transaction

# Insert a model unless the same bytes are there.
INSERT = """
INSERT INTO model (id, bytes, description, created)
VALUES (:id, :bytes, :description, :created) ON CONFLICT (id) DO NOTHING
"""
# One model.
ONE = "SELECT * FROM model WHERE id = :id"
# A page of models, oldest first.
PAGE = "SELECT * FROM model WHERE seq > :after ORDER BY seq LIMIT :limit"
# Forget a model.
DELETE = "DELETE FROM model WHERE id = :id"
# Recalibrations that still need a model.
USERS = """
SELECT count(*) AS users FROM recalibration
WHERE model = :id AND state IN ('open', 'queued', 'running')
"""
# Bytes of all models.
TOTAL = "SELECT coalesce(sum(bytes), 0) AS bytes FROM model"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that was acknowledged.

    Attributes:
        seq: its place in the ledger's order.
        id: SHA-256 of its bytes, hexadecimal.
        bytes: its size.
        description: `inputs`, `outputs`, `layers`, `warnings`, as the worker told them.
        created: RFC 3339 UTC.
    """

    seq: int
    id: str
    bytes: int
    description: dict[str, Any]
    created: str

    def inputs(self) -> tuple[TensorInfo, ...]:
        """Return what a batch must hold."""
        return parse_inputs(self.description["inputs"])


def parse_inputs(table: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    """Read inputs from their JSON form."""
    return tuple(
        TensorInfo(
            name=item["name"],
            dtype=item["dtype"],
            shape=None if item["shape"] is None else tuple(item["shape"]),
        )
        for item in table
    )


def key(model: str) -> str:
    """Return the blob key; alone in its folder, a model's external data finds no other file."""
    return f"models/{model}/model.onnx"


def folder(model: str) -> str:
    """Return the blob folder of a model."""
    return f"models/{model}"


def insert(tx: Transaction, *, model: str, size: int, description: str, created: str) -> bool:
    """Store a model; False when it was there."""
    return bool(tx.change(INSERT, id=model, bytes=size, description=description, created=created))


def find(tx: Transaction, model: str) -> StoredModel | None:
    """Return a model, or None."""
    row = tx.row(ONE, id=model)
    return None if row is None else _model(row)


def get(tx: Transaction, model: str) -> StoredModel:
    """Return a model.

    Raises:
        NotFoundError: there is none.
    """
    found = find(tx, model)
    if found is None:
        raise NotFoundError(f"there is no model {model!r}")
    return found


def page(tx: Transaction, *, after: int, limit: int) -> list[StoredModel]:
    """Return models in the order of their arrival."""
    return [_model(row) for row in tx.rows(PAGE, after=after, limit=limit)]


def users(tx: Transaction, model: str) -> int:
    """Count the recalibrations that still need a model."""
    row = tx.row(USERS, id=model)
    assert row is not None
    return int(row["users"] or 0)


def delete(tx: Transaction, model: str) -> None:
    """Forget a model."""
    tx.change(DELETE, id=model)


def total_bytes(tx: Transaction) -> int:
    """Return the bytes of all models."""
    row = tx.row(TOTAL)
    assert row is not None
    return int(row["bytes"] or 0)


def _model(row: Row) -> StoredModel:
    return StoredModel(
        seq=int(row["seq"] or 0),
        id=str(row["id"]),
        bytes=int(row["bytes"] or 0),
        description=json.loads(str(row["description"])),
        created=str(row["created"]),
    )
