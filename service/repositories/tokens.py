"""Tokens in the ledger: never a token itself, only its SHA-256."""

from __future__ import annotations

from dataclasses import dataclass

from service import clock
from service.errors import NotFoundError, QuotaError, TokenExistsError
from service.storage.ledger.protocol import Row, Transaction, Value

# A new token.
INSERT = """
INSERT INTO token (name, sha256, admin, limit_bytes, limit_open, created)
VALUES (:name, :sha256, :admin, :limit_bytes, :limit_open, :now)
ON CONFLICT DO NOTHING
"""
# One token.
ONE = "SELECT * FROM token WHERE name = :name"
# All tokens.
ALL = "SELECT * FROM token ORDER BY name"
# A token is taken back.
DELETE = "DELETE FROM token WHERE name = :name"
# Bytes that an owner keeps: batches that are still there, and each model that it holds.
STORED = """
SELECT (SELECT coalesce(sum(bytes), 0) FROM recalibration
        WHERE owner = :owner AND data_removed = 0)
     + (SELECT coalesce(sum(model.bytes), 0) FROM model_owner JOIN model ON id = model
        WHERE owner = :owner) AS bytes
"""
# Recalibrations of an owner that have not ended.
OPEN = """
SELECT count(*) AS found FROM recalibration WHERE owner = :owner AND ended IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token.

    Attributes:
        name: who holds it; the owner of what is made with it.
        sha256: hash of the token, hexadecimal.
        admin: whether it sees what others own.
        limit_bytes: most bytes of models and batches that its owner keeps; None: no limit.
        limit_open: most recalibrations of its owner that have not ended; None: no limit.
    """

    name: str
    sha256: str
    admin: bool = False
    limit_bytes: int | None = None
    limit_open: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token with the time of its making (RFC 3339 UTC)."""

    token: Token
    created: str


def insert(tx: Transaction, token: Token) -> None:
    """Let a token in.

    Raises:
        TokenExistsError: the name, or the token itself, is there already.
    """
    done = tx.change(
        INSERT,
        name=token.name,
        sha256=token.sha256,
        admin=int(token.admin),
        limit_bytes=token.limit_bytes,
        limit_open=token.limit_open,
        now=clock.now(),
    )
    if not done:
        raise TokenExistsError(f"there is a token {token.name!r} already: revoke it first")


def everyone(tx: Transaction) -> list[StoredToken]:
    """Return all tokens by name."""
    return [_token(row) for row in tx.rows(ALL)]


def delete(tx: Transaction, name: str) -> None:
    """Take a token back; what its owner has made stays.

    Raises:
        NotFoundError: there is none of this name.
    """
    if not tx.change(DELETE, name=name):
        raise NotFoundError(f"there is no token {name!r}")


def require_bytes(tx: Transaction, owner: str, more: int) -> None:
    """Refuse what would bring an owner over its quota of bytes.

    Raises:
        QuotaError: it would.
    """
    limit = _limit(tx, owner, "limit_bytes")
    if limit is not None and _number(tx, STORED, owner, "bytes") + more > limit:
        raise QuotaError(f"the token {owner!r} keeps at most {limit} bytes", limit=limit)


def require_open(tx: Transaction, owner: str) -> None:
    """Refuse one more recalibration that has not ended when an owner's quota is used up.

    Raises:
        QuotaError: it is.
    """
    limit = _limit(tx, owner, "limit_open")
    if limit is not None and _number(tx, OPEN, owner, "found") >= limit:
        raise QuotaError(
            f"the token {owner!r} has at most {limit} recalibrations that have not ended",
            limit=limit,
        )


def _limit(tx: Transaction, owner: str, name: str) -> int | None:
    row = tx.row(ONE, name=owner) if owner else None
    return None if row is None else _optional_int(row[name])


def _number(tx: Transaction, query: str, owner: str, name: str) -> int:
    row = tx.row(query, owner=owner)
    assert row is not None
    return int(row[name] or 0)


def _token(row: Row) -> StoredToken:
    token = Token(
        name=str(row["name"]),
        sha256=str(row["sha256"]),
        admin=bool(row["admin"]),
        limit_bytes=_optional_int(row["limit_bytes"]),
        limit_open=_optional_int(row["limit_open"]),
    )
    return StoredToken(token=token, created=str(row["created"]))


def _optional_int(value: Value) -> int | None:
    return None if value is None else int(value)
