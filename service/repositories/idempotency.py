"""Idempotency keys: the same key and the same request give the same answer again.

A key decides identity, a content hash never does: a client may well send the same content twice on
purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from service import clock
from service.errors import IdempotencyKeyReusedError, RequestInvalidError
from service.storage.ledger.protocol import Transaction

# What was answered under a key.
ONE = "SELECT request_sha256, response FROM idempotency WHERE scope = :scope AND key = :key"
# Remember an answer, instead of one that stands for nothing any more.
INSERT = """
INSERT INTO idempotency (scope, key, request_sha256, response, created)
VALUES (:scope, :key, :request, :response, :now)
ON CONFLICT (scope, key) DO UPDATE SET response = excluded.response, created = excluded.created
"""
# Keys of old answers.
EXPIRED = "SELECT scope, key FROM idempotency WHERE created < :before LIMIT :most"
# Forget an old answer.
FORGET = "DELETE FROM idempotency WHERE scope = :scope AND key = :key AND created < :before"

LONGEST_KEY = 255


def scope_of(route: str, owner: str) -> str:
    """Return what a key belongs to: another owner's answer under the same key must not come out."""
    return f"{route} {owner}".strip()


def recall(tx: Transaction, *, scope: str, key: str, request: str) -> str | None:
    """Return what was answered under a key; None when it is new.

    Args:
        tx: the transaction.
        scope: what the key belongs to: `scope_of` a route, or one thing's own route.
        key: the client's key.
        request: fingerprint of the request.

    Raises:
        IdempotencyKeyReusedError: the key came with another request.
        RequestInvalidError: the key is empty or too long.
    """
    if not 0 < len(key) <= LONGEST_KEY:
        raise RequestInvalidError(f"an Idempotency-Key has 1 to {LONGEST_KEY} characters")
    row = tx.row(ONE, scope=scope, key=key)
    if row is None:
        return None
    if row["request_sha256"] != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key was used with another request")
    return str(row["response"])


def remember(tx: Transaction, *, scope: str, key: str, request: str, response: str) -> None:
    """Keep an answer."""
    tx.change(INSERT, scope=scope, key=key, request=request, response=response, now=clock.now())


def expired(tx: Transaction, *, before: str, most: int) -> list[tuple[str, str]]:
    """Return scope and key of answers from before a time, `most` of them at most."""
    rows = tx.rows(EXPIRED, before=before, most=most)
    return [(str(row["scope"]), str(row["key"])) for row in rows]


def forget(tx: Transaction, answers: Sequence[tuple[str, str]], *, before: str) -> None:
    """Forget those of these answers that are still from before a time."""
    for scope, key in answers:
        tx.change(FORGET, scope=scope, key=key, before=before)


def fingerprint(content: bytes) -> str:
    """Return what tells one request from another."""
    return hashlib.sha256(content).hexdigest()
