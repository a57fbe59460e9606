"""Tokens: only their SHA-256 hashes are known here, and they are compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from service.errors import StartError
from service.settings import Settings

_HASH = re.compile(r"[0-9a-f]{64}")


def read_tokens(settings: Settings) -> tuple[bytes, ...]:
    """Return the hashes of the tokens that are let in; empty when none is configured.

    Raises:
        StartError: the file cannot be read, or an entry is no SHA-256 hash.
    """
    entries = settings.tokens.split(",")
    if settings.tokens_file is not None:
        try:
            lines = settings.tokens_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise StartError(f"the token file cannot be read: {error.strerror}") from error
        entries += [line.partition("#")[0] for line in lines]
    return tuple(_hash(entry.strip().lower()) for entry in entries if entry.strip())


def known(header: str | None, hashes: Iterable[bytes]) -> bool:
    """Tell whether an Authorization header carries a known bearer token."""
    scheme, _, token = (header or "").partition(" ")
    found = hashlib.sha256(token.strip().encode()).digest()
    # No short cut: the time taken must not tell which hash came close.
    matches = [hmac.compare_digest(found, one) for one in hashes]
    return scheme.lower() == "bearer" and any(matches)


def _hash(entry: str) -> bytes:
    if _HASH.fullmatch(entry) is None:
        raise StartError(
            "an entry of the tokens is no SHA-256 hash: make one with `printf %s TOKEN | sha256sum`"
        )
    return bytes.fromhex(entry)
