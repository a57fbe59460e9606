"""Tokens in the ledger, and the quotas of their owners; only SHA-256 hashes are stored."""

from __future__ import annotations

from dataclasses import dataclass

from service import clock
from service.errors import NotFoundError, QuotaError, TokenExistsError
from service.repositories.records import StoredToken, Token
from service.storage.ledger.protocol import Row, Transaction, Value

# Insert a token.
INSERT = """
INSERT INTO token (name, sha256, admin, limit_bytes, limit_open, created)
VALUES (:name, :sha256, :admin, :limit_bytes, :limit_open, :now)
ON CONFLICT DO NOTHING
"""
# One token.
ONE = "SELECT * FROM token WHERE name = :name"
# All tokens.
ALL = "SELECT * FROM token ORDER BY name"
# Number of tokens.
COUNT = "SELECT count(*) AS found FROM token"
# Delete a token.
DELETE = "DELETE FROM token WHERE name = :name"
# Bytes of an owner: batches whose data is not removed, and each model that it holds.
STORED = """
SELECT (SELECT coalesce(sum(bytes), 0) FROM recalibration
        WHERE owner = :owner AND data_removed = 0)
     + (SELECT coalesce(sum(model.bytes), 0) FROM model_owner JOIN model ON id = model_owner.model
        WHERE owner = :owner) AS bytes
"""
# Number of an owner's recalibrations that have not ended.
OPEN = """
SELECT count(*) AS found FROM recalibration WHERE owner = :owner AND ended IS NULL
"""


def insert(tx: Transaction, token: Token) -> None:
    """Insert a token.

    Raises:
        TokenExistsError: there is a token with this name or hash.
    """
    inserted = tx.change(
        INSERT,
        name=token.name,
        sha256=token.sha256,
        admin=int(token.admin),
        limit_bytes=token.limit_bytes,
        limit_open=token.limit_open,
        now=clock.now(),
    )
    if not inserted:
        raise TokenExistsError(f"there is a token {token.name!r} already: revoke it first")


def all_tokens(tx: Transaction) -> list[StoredToken]:
    """Return all tokens by name."""
    return [_token(row) for row in tx.rows(ALL)]


def count(tx: Transaction) -> int:
    """Return the number of tokens."""
    row = tx.row(COUNT)
    assert row is not None
    return int(row["found"] or 0)


def delete(tx: Transaction, name: str) -> None:
    """Delete a token; its owner's data stays.

    Raises:
        NotFoundError: there is no token of this name.
    """
    if not tx.change(DELETE, name=name):
        raise NotFoundError(f"there is no token {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteQuota:
    """The quota of bytes of an owner.

    Attributes:
        owner: the owner.
        limit: the most bytes of its models and batches; None for no limit.
        stored: the bytes that it has stored; 0 without a limit.
    """

    owner: str
    limit: int | None
    stored: int = 0

    def check(self, more_bytes: int) -> None:
        """Check that uploads stay within the quota.

        Raises:
            QuotaError: the quota would be exceeded.
        """
        limit = self.limit
        if limit is not None and self.stored + more_bytes > limit:
            text = f"the token {self.owner!r} can store at most {limit} bytes"
            raise QuotaError(text, limit=limit)


def byte_quota(tx: Transaction, owner: str) -> ByteQuota:
    """Return the quota of bytes of an owner."""
    limit = _limit(tx, owner, "limit_bytes")
    if limit is None:
        return ByteQuota(owner=owner, limit=None)
    return ByteQuota(owner=owner, limit=limit, stored=_number(tx, STORED, owner, "bytes"))


def check_bytes(tx: Transaction, owner: str, more_bytes: int) -> None:
    """Check that an upload stays within its owner's quota of bytes.

    Raises:
        QuotaError: the quota would be exceeded.
    """
    byte_quota(tx, owner).check(more_bytes)


def check_open(tx: Transaction, owner: str) -> None:
    """Check that an owner's quota allows another recalibration.

    Raises:
        QuotaError: the quota is used up.
    """
    limit = _limit(tx, owner, "limit_open")
    if limit is not None and _number(tx, OPEN, owner, "found") >= limit:
        raise QuotaError(
            f"the token {owner!r} can have at most {limit} recalibrations that have not ended",
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
