"""Idempotency keys: the same key with the same request gets the same response.

A key decides identity, a content hash never does: a client may send the same content twice on
purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from service import clock
from service.errors import IdempotencyKeyReusedError, RequestInvalidError
from service.storage.ledger.protocol import Transaction

# The response that is stored under a key.
ONE = "SELECT request_sha256, response FROM idempotency WHERE scope = :scope AND key = :key"
# Store a response, replacing one that is no longer valid.
INSERT = """
INSERT INTO idempotency (scope, key, request_sha256, response, created)
VALUES (:scope, :key, :request, :response, :now)
ON CONFLICT (scope, key) DO UPDATE SET response = excluded.response, created = excluded.created
"""
# Keys of old responses.
EXPIRED = "SELECT scope, key FROM idempotency WHERE created < :before LIMIT :limit"
# Delete an old response.
DELETE = "DELETE FROM idempotency WHERE scope = :scope AND key = :key AND created < :before"

MAX_KEY_LENGTH = 255


def scope_of(route: str, owner: str) -> str:
    """Return the scope of an owner's keys for a route; owners never share responses."""
    return f"{route} {owner}".strip()


def lookup(tx: Transaction, *, scope: str, key: str, request: str) -> str | None:
    """Return the response that is stored under a key; None for a new key.

    Args:
        tx: the transaction.
        scope: scope of the key: the result of `scope_of`, or the route of one resource.
        key: the client's key.
        request: fingerprint of the request.

    Raises:
        IdempotencyKeyReusedError: the key was used with another request.
        RequestInvalidError: the key is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise RequestInvalidError(f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters")
    row = tx.row(ONE, scope=scope, key=key)
    if row is None:
        return None
    if row["request_sha256"] != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key was used with another request")
    return str(row["response"])


def store_response(tx: Transaction, *, scope: str, key: str, request: str, response: str) -> None:
    """Store the response to a request under its key."""
    tx.submit(INSERT, scope=scope, key=key, request=request, response=response, now=clock.now())


def expired(tx: Transaction, *, before: str, limit: int) -> list[tuple[str, str]]:
    """Return scope and key of responses from before a time, up to a limit."""
    rows = tx.rows(EXPIRED, before=before, limit=limit)
    return [(str(row["scope"]), str(row["key"])) for row in rows]


def delete(tx: Transaction, keys: Sequence[tuple[str, str]], *, before: str) -> None:
    """Delete the responses under these scopes and keys that are still from before a time."""
    for scope, key in keys:
        tx.change(DELETE, scope=scope, key=key, before=before)


def fingerprint(content: bytes) -> str:
    """Return the fingerprint of a request."""
    return hashlib.sha256(content).hexdigest()
