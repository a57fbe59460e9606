"""Idempotency keys: the same key with the same request gets the same response.

A key decides identity, a content hash never does: a client may send the same content twice on
purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service import clock
from service.errors import IdempotencyKeyReusedError, RequestInvalidError
from service.storage.ledger.protocol import Row, Transaction

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


class KeyPlace(NamedTuple):
    """A key within its scope: the result of `scope_of`, or the route of one resource."""

    scope: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response that is stored under a key, and the fingerprint of its request."""

    request: str
    response: str


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
    place = KeyPlace(scope=scope, key=key)
    return check(place, fetch(tx, [place])().get(place), request)


def fetch(
    tx: Transaction, places: Sequence[KeyPlace]
) -> Callable[[], dict[KeyPlace, StoredResponse]]:
    """Send the query of many keys; the result waits for the responses that are stored."""
    found = tx.fetch(ONE, [place._asdict() for place in places])
    return lambda: {
        place: _response(rows[0]) for place, rows in zip(places, found(), strict=True) if rows
    }


def check(place: KeyPlace, stored: StoredResponse | None, request: str) -> str | None:
    """Return a stored response if it is one to the same request; None for a new key.

    Raises:
        IdempotencyKeyReusedError, RequestInvalidError: see `lookup`.
    """
    if not 0 < len(place.key) <= MAX_KEY_LENGTH:
        raise RequestInvalidError(f"an Idempotency-Key has 1 to {MAX_KEY_LENGTH} characters")
    if stored is None:
        return None
    if stored.request != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key was used with another request")
    return stored.response


def store_response(tx: Transaction, *, scope: str, key: str, request: str, response: str) -> None:
    """Store the response to a request under its key."""
    place = KeyPlace(scope=scope, key=key)
    store_responses(tx, {place: StoredResponse(request=request, response=response)})


def store_responses(tx: Transaction, responses: Mapping[KeyPlace, StoredResponse]) -> None:
    """Store responses under their keys."""
    now = clock.now()
    tx.insert_all(
        INSERT,
        [
            {**place._asdict(), "request": one.request, "response": one.response, "now": now}
            for place, one in responses.items()
        ],
    )


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


def _response(row: Row) -> StoredResponse:
    return StoredResponse(request=str(row["request_sha256"]), response=str(row["response"]))
