"""The bytes of models and batches that the server keeps, and the most that it may."""

from __future__ import annotations

from service.errors import StorageFullError
from service.repositories import models, recalibrations
from service.settings import Settings
from service.storage.ledger.protocol import Transaction


def stored_bytes(tx: Transaction) -> int:
    """Return the bytes of all models and batches, as the total limit counts them."""
    return recalibrations.total_bytes(tx) + models.total_bytes(tx)


def require(tx: Transaction, settings: Settings, more: int) -> None:
    """Refuse what would bring the server over its total limit.

    Raises:
        StorageFullError: so many bytes more would.
    """
    limit = settings.total_limit_bytes
    if stored_bytes(tx) + more > limit:
        raise StorageFullError(f"the server keeps at most {limit} bytes; delete what nobody needs")
