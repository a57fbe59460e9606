"""The known tokens: only their SHA-256 hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from service.context import EVERYTHING, Caller
from service.errors import StartError
from service.repositories import tokens as store
from service.repositories.records import Token
from service.settings import Settings
from service.storage.ledger.protocol import Ledger

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The hash of a token and the caller that it identifies."""

    sha256: bytes
    caller: Caller


class Keyring:
    """All accepted tokens: those of the settings, which see everything, and the ledger's.

    Args:
        configured: hashes of the tokens in the settings.
        refresh_seconds: time after which a token that another process creates or revokes takes
            effect.

    Attributes:
        used: whether there was a token at any time since the server started. When the last token is
            revoked, requests without a token must not be accepted.
    """

    def __init__(self, configured: Sequence[bytes], *, refresh_seconds: float) -> None:
        self._refresh_seconds = refresh_seconds
        self._configured = [Key(sha256=one, caller=EVERYTHING) for one in configured]
        self._keys = self._configured
        self.used = bool(configured)
        self._read_at = float("-inf")

    async def keys(self, ledger: Ledger) -> Sequence[Key]:
        """Return the keys, at most `refresh_seconds` old."""
        if monotonic() - self._read_at >= self._refresh_seconds:
            began = monotonic()
            found = await ledger.read(store.all_tokens)
            self._keys = self._configured + [_key(one.token) for one in found]
            self._read_at = began
            self.used = self.used or bool(self._keys)
        return self._keys


def read_tokens(settings: Settings) -> tuple[bytes, ...]:
    """Return the hashes of the tokens in the settings; empty if none is configured.

    Raises:
        StartError: the file cannot be read, or an entry is not a SHA-256 hash.
    """
    entries = settings.tokens.split(",")
    if settings.tokens_file is not None:
        try:
            lines = settings.tokens_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise StartError(f"the token file cannot be read: {error.strerror}") from error
        entries += [line.partition("#")[0] for line in lines]
    return tuple(_hash(entry.strip().lower()) for entry in entries if entry.strip())


def holder(header: str | None, keys: Sequence[Key]) -> Caller | None:
    """Return the caller that the bearer token of an Authorization header identifies, or None."""
    scheme, _, token = (header or "").partition(" ")
    found = hashlib.sha256(token.strip().encode()).digest()
    # All keys are compared: the time must not depend on which one matches.
    matches = [key.caller for key in keys if hmac.compare_digest(found, key.sha256)]
    return matches[0] if matches and scheme.lower() == "bearer" else None


def _key(token: Token) -> Key:
    caller = Caller(name=token.name, sees_all=token.admin)
    return Key(sha256=bytes.fromhex(token.sha256), caller=caller)


def _hash(entry: str) -> bytes:
    if _HASH.fullmatch(entry) is None:
        raise StartError(
            "an entry of the tokens is not a SHA-256 hash: create one with "
            "`printf %s TOKEN | sha256sum`"
        )
    return bytes.fromhex(entry)
