"""Models in the ledger, their owners, and the keys of their blobs."""

from __future__ import annotations

import json
import secrets

from service.errors import NotFoundError
from service.repositories.records import StoredModel
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.protocol import Row, Transaction

# Insert a model unless the same bytes are stored.
INSERT = """
INSERT INTO model (id, folder, bytes, description, created)
VALUES (:id, :folder, :bytes, :description, :created) ON CONFLICT (id) DO NOTHING
"""
# Name another folder for a model whose file is lost.
REPLACE = "UPDATE model SET folder = :folder WHERE id = :id AND folder = :lost"
# The model of a folder.
IN_FOLDER = "SELECT * FROM model WHERE folder = :folder"
# Add an owner to a model.
GRANT = """
INSERT INTO model_owner (model, owner, created) VALUES (:id, :owner, :now) ON CONFLICT DO NOTHING
"""
# Remove an owner from a model.
REVOKE = "DELETE FROM model_owner WHERE model = :id AND owner = :owner"
# Note that an owner has uploaded a model again. Done from time to time, not for each request.
TOUCH = """
UPDATE model_owner SET created = :now WHERE model = :id AND owner = :owner AND created < :before
"""
# Remove owners from models that they have not uploaded since a time and have no recalibration of.
EXPIRE = """
DELETE FROM model_owner WHERE created < :before AND NOT EXISTS (
    SELECT 1 FROM recalibration AS one
    WHERE one.model = model_owner.model AND one.owner = model_owner.owner
)
"""
# Number of owners of a model.
OWNERS = "SELECT count(*) AS owners FROM model_owner WHERE model = :id"
# Models without an owner and without a recalibration that has not ended.
UNOWNED = """
SELECT * FROM model
WHERE id NOT IN (SELECT model FROM model_owner)
  AND id NOT IN (SELECT model FROM recalibration WHERE ended IS NULL)
"""
# One model of an owner. `created` is the time of the owner's own upload: nothing reveals that
# others had uploaded it before.
OWN_ONE = """
SELECT own.seq, id, folder, bytes, description, own.created
FROM model_owner AS own JOIN model ON id = own.model WHERE id = :id AND owner = :owner
"""
# A page of an owner's models, oldest first.
OWN_PAGE = """
SELECT own.seq, id, folder, bytes, description, own.created
FROM model_owner AS own JOIN model ON id = own.model
WHERE owner = :owner AND own.seq > :after ORDER BY own.seq LIMIT :limit
"""
# One model.
ONE = "SELECT * FROM model WHERE id = :id"
# A page of all models, oldest first.
PAGE = "SELECT * FROM model WHERE seq > :after ORDER BY seq LIMIT :limit"
# Delete a model.
DELETE = "DELETE FROM model WHERE id = :id"
# Number of recalibrations, optionally of one owner, that have not ended and use a model.
USERS = """
SELECT count(*) AS users FROM recalibration
WHERE model = :id AND ended IS NULL AND (CAST(:owner AS TEXT) IS NULL OR owner = :owner)
"""
# Bytes of all models.
TOTAL = "SELECT coalesce(sum(bytes), 0) AS bytes FROM model"


FOLDER = "models"


def new_folder(sha256: str) -> str:
    """Return a name for the folder of a file with a digest (hexadecimal).

    It is random, so an upload never uses the file of another one: the same bytes can be uploaded
    while they are deleted, also by several processes. The digest is that of the stored file, which
    is another one than the model's id if an archive was converted.
    """
    return f"{sha256}-{secrets.token_hex(8)}"


def folder(name: str) -> str:
    """Return the blob folder with a name."""
    return f"{FOLDER}/{name}"


def key(folder_name: str) -> str:
    """Return the blob key of the model in a folder.

    The model is alone in its folder, so references to external data find no other file.
    """
    return f"{folder(folder_name)}/model.onnx"


def content(folder_name: str, size: int) -> BlobContent:
    """Return what the file in a folder must contain."""
    return BlobContent(key=key(folder_name), bytes=size, sha256=folder_name.partition("-")[0])


def insert(
    tx: Transaction, *, model: str, folder_name: str, size: int, description: str, created: str
) -> None:
    """Insert a model unless it exists."""
    tx.change(
        INSERT, id=model, folder=folder_name, bytes=size, description=description, created=created
    )


def replace(tx: Transaction, model: str, *, lost: str, folder_name: str) -> None:
    """Name another folder for a model whose file in the folder `lost` does not exist."""
    tx.change(REPLACE, id=model, lost=lost, folder=folder_name)


def has_folder(tx: Transaction, folder_name: str) -> bool:
    """Return whether a model is in a folder."""
    return tx.row(IN_FOLDER, folder=folder_name) is not None


def grant(tx: Transaction, model: str, owner: str, *, created: str) -> bool:
    """Add an owner to a model; return whether the owner is new."""
    return bool(tx.change(GRANT, id=model, owner=owner, now=created))


def revoke(tx: Transaction, model: str, owner: str) -> int:
    """Remove an owner from a model; return the number of remaining owners."""
    tx.change(REVOKE, id=model, owner=owner)
    row = tx.row(OWNERS, id=model)
    assert row is not None
    return int(row["owners"] or 0)


def touch(tx: Transaction, model: str, owner: str, *, now: str, before: str) -> None:
    """Store the time of a repeated upload, unless the stored time is not before `before`.

    An administrator may upload a model of another owner, and becomes an owner of it as well.
    """
    grant(tx, model, owner, created=now)
    tx.change(TOUCH, id=model, owner=owner, now=now, before=before)


def expire(tx: Transaction, *, before: str) -> None:
    """Remove owners from models that they have not uploaded since a time and do not use."""
    tx.change(EXPIRE, before=before)


def delete_unowned(tx: Transaction) -> list[StoredModel]:
    """Delete the models without an owner and without a recalibration in progress; return them."""
    found = [_model(row) for row in tx.rows(UNOWNED)]
    for one in found:
        delete(tx, one.id)
    return found


def find(tx: Transaction, model: str, *, owner: str | None = None) -> StoredModel | None:
    """Return a model, or None; with an owner, only if it belongs to that owner."""
    row = tx.row(ONE, id=model) if owner is None else tx.row(OWN_ONE, id=model, owner=owner)
    return None if row is None else _model(row)


def get(tx: Transaction, model: str, *, owner: str | None = None) -> StoredModel:
    """Return a model; with an owner, only if it belongs to that owner.

    Raises:
        NotFoundError: there is no such model.
    """
    found = find(tx, model, owner=owner)
    if found is None:
        raise NotFoundError(f"there is no model {model!r}")
    return found


def page(tx: Transaction, *, after: int, limit: int, owner: str | None = None) -> list[StoredModel]:
    """Return models, or those of one owner, in the order of upload."""
    if owner is None:
        found = tx.rows(PAGE, after=after, limit=limit)
    else:
        found = tx.rows(OWN_PAGE, owner=owner, after=after, limit=limit)
    return [_model(row) for row in found]


def users(tx: Transaction, model: str, *, owner: str | None = None) -> int:
    """Return how many recalibrations, or those of one owner, have not ended and use a model."""
    row = tx.row(USERS, id=model, owner=owner)
    assert row is not None
    return int(row["users"] or 0)


def delete(tx: Transaction, model: str) -> None:
    """Delete a model."""
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
        folder=str(row["folder"]),
        bytes=int(row["bytes"] or 0),
        description=json.loads(str(row["description"])),
        created=str(row["created"]),
    )
