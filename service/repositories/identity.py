"""The id of the ledger."""

from __future__ import annotations

import secrets

from service.storage.ledger.protocol import Transaction

# The id, if there is one.
GET = "SELECT id FROM identity"
# Insert the id.
INSERT = "INSERT INTO identity (id) VALUES (:id)"


def get(tx: Transaction) -> str:
    """Return the id of the ledger, which is random and never changes; inside `Ledger.write`."""
    row = tx.row(GET)
    if row is not None:
        return str(row["id"])
    created = secrets.token_hex(16)
    tx.change(INSERT, id=created)
    return created
