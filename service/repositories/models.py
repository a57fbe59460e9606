"""Models in the ledger, and where their bytes lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bn_ops.core.signature import TensorInfo
from service.errors import NotFoundError
from service.storage.ledger.protocol import Row, Transaction

# Insert a model unless the same bytes are there.
INSERT = """
INSERT INTO model (id, bytes, description, created)
VALUES (:id, :bytes, :description, :created) ON CONFLICT (id) DO NOTHING
"""
# Give a model to an owner unless it has it.
GRANT = """
INSERT INTO model_owner (model, owner, created) VALUES (:id, :owner, :now) ON CONFLICT DO NOTHING
"""
# Take a model from an owner.
REVOKE = "DELETE FROM model_owner WHERE model = :id AND owner = :owner"
# An owner has sent a model again: it counts as new from time to time, not with each request.
TOUCH = """
UPDATE model_owner SET created = :now WHERE model = :id AND owner = :owner AND created < :before
"""
# Take from their owners the models that they have not sent for long and keep no recalibration of.
EXPIRE = """
DELETE FROM model_owner WHERE created < :before AND NOT EXISTS (
    SELECT 1 FROM recalibration AS one
    WHERE one.model = model_owner.model AND one.owner = model_owner.owner
)
"""
# How many hold a model.
OWNERS = "SELECT count(*) AS owners FROM model_owner WHERE model = :id"
# Models that nobody holds and no recalibration needs.
UNOWNED = """
SELECT id FROM model
WHERE id NOT IN (SELECT model FROM model_owner)
  AND id NOT IN (SELECT model FROM recalibration WHERE ended IS NULL)
"""
# One model as its owner knows it: nothing tells that others held it before.
OWN_ONE = """
SELECT own.seq, id, bytes, description, own.created
FROM model_owner AS own JOIN model ON id = own.model WHERE id = :id AND owner = :owner
"""
# A page of an owner's models, oldest first.
OWN_PAGE = """
SELECT own.seq, id, bytes, description, own.created
FROM model_owner AS own JOIN model ON id = own.model
WHERE owner = :owner AND own.seq > :after ORDER BY own.seq LIMIT :limit
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
WHERE model = :id AND ended IS NULL AND (:owner IS NULL OR owner = :owner)
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


def insert(tx: Transaction, *, model: str, size: int, description: str, created: str) -> None:
    """Store a model; harmless when it is there."""
    tx.change(INSERT, id=model, bytes=size, description=description, created=created)


def grant(tx: Transaction, model: str, owner: str, *, created: str) -> bool:
    """Give a model to an owner; False when it has it already."""
    return bool(tx.change(GRANT, id=model, owner=owner, now=created))


def revoke(tx: Transaction, model: str, owner: str) -> int:
    """Take a model from an owner; return how many others hold it."""
    tx.change(REVOKE, id=model, owner=owner)
    row = tx.row(OWNERS, id=model)
    assert row is not None
    return int(row["owners"] or 0)


def touch(tx: Transaction, model: str, owner: str, *, now: str, before: str) -> None:
    """Note that an owner has sent a model again, where it was noted before a time.

    Whoever sees all may send what another one holds, and holds it from then on as well.
    """
    grant(tx, model, owner, created=now)
    tx.change(TOUCH, id=model, owner=owner, now=now, before=before)


def expire(tx: Transaction, *, before: str) -> None:
    """Take from their owners what they have not sent since a time and do not use."""
    tx.change(EXPIRE, before=before)


def unowned(tx: Transaction) -> list[str]:
    """Return the models that nobody holds and no recalibration needs."""
    return [str(row["id"]) for row in tx.rows(UNOWNED)]


def find(tx: Transaction, model: str, *, owner: str | None = None) -> StoredModel | None:
    """Return a model, or None; with an owner, only when it holds it."""
    row = tx.row(ONE, id=model) if owner is None else tx.row(OWN_ONE, id=model, owner=owner)
    return None if row is None else _model(row)


def get(tx: Transaction, model: str, *, owner: str | None = None) -> StoredModel:
    """Return a model; with an owner, only when it holds it.

    Raises:
        NotFoundError: there is none.
    """
    found = find(tx, model, owner=owner)
    if found is None:
        raise NotFoundError(f"there is no model {model!r}")
    return found


def page(tx: Transaction, *, after: int, limit: int, owner: str | None = None) -> list[StoredModel]:
    """Return models, or one owner's, in the order of their arrival."""
    if owner is None:
        found = tx.rows(PAGE, after=after, limit=limit)
    else:
        found = tx.rows(OWN_PAGE, owner=owner, after=after, limit=limit)
    return [_model(row) for row in found]


def users(tx: Transaction, model: str, *, owner: str | None = None) -> int:
    """Count the recalibrations, or one owner's, that still need a model."""
    row = tx.row(USERS, id=model, owner=owner)
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
