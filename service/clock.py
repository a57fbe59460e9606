"""Time and names: the two sources of chance that the ledger stores."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def now() -> str:
    """Return the time as RFC 3339 UTC with milliseconds; the text sorts like the time."""
    return to_text(datetime.now(UTC))


def to_text(moment: datetime) -> str:
    """Write a moment the way the ledger stores it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_recalibration_id() -> str:
    """Return a name that cannot be guessed: 128 random bits."""
    return f"rc_{secrets.token_hex(16)}"
