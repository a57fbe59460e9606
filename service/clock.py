"""Time and random ids."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def now() -> str:
    """Return the time as RFC 3339 UTC with milliseconds; the text sorts in order of time."""
    return to_text(datetime.now(UTC))


def to_text(moment: datetime) -> str:
    """Return a time in the form that the ledger stores."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """Return the time that `to_text` wrote."""
    return datetime.fromisoformat(text)


def new_recalibration_id() -> str:
    """Return a new id that cannot be guessed: 128 random bits."""
    return f"rc_{secrets.token_hex(16)}"
