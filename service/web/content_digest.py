"""SHA-256: the Content-Digest header (RFC 9530), and the digest of a file."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from service.errors import DigestMismatchError

# 32 bytes in base64: 43 digits, the last with two unused bits, and one padding character.
_BYTE_SEQUENCE = re.compile(r":([A-Za-z0-9+/]{43}=):")


def write(sha256_hex: str) -> str:
    """Return the header value for a digest."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode()}:"


def read(value: str | None) -> str | None:
    """Return the SHA-256 digest of a header value in hexadecimal, or None if it has none.

    Other algorithms are ignored, as the RFC allows.

    Raises:
        DigestMismatchError: the sha-256 member is malformed.
    """
    for member in (value or "").split(","):
        name, _, rest = member.strip().partition("=")
        if name.strip().lower() == "sha-256":
            return _decode(rest.partition(";")[0].strip())
    return None


def verify(expected_hex: str | None, found_hex: str) -> None:
    """Check a body's digest against the announced one, if any.

    Raises:
        DigestMismatchError: they differ.
    """
    if expected_hex is not None and expected_hex != found_hex:
        raise DigestMismatchError(
            f"the body has SHA-256 {found_hex}, its Content-Digest is {expected_hex}: send it again"
        )


def _decode(text: str) -> str:
    match = _BYTE_SEQUENCE.fullmatch(text)
    if match is None:
        raise DigestMismatchError("the sha-256 member of Content-Digest is malformed")
    return base64.b64decode(match.group(1)).hex()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
