"""Zip archives, checked by their directory before anything is unpacked; only for a worker.

The API process stores an archive unchanged and never opens it.
"""

from __future__ import annotations

import contextlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO

from service.errors import BatchMalformedError, BatchUnpackedTooLargeError
from service.formats.members import MAX_MEMBERS, Inventory, Member, refusal

METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# Deflate reaches 1,032 : 1 on zeros; real data that was measured stays far below this limit.
MAX_EXPANSION = 200
# Smaller members may have any ratio: a mask of zeros is legitimate.
MIN_EXPANSION_BYTES = 1 << 20
ENCRYPTED = 0x1
_UNIX_MODE_SHIFT = 16


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Convert what the standard library raises on a malformed archive to this package's error."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,  # an unsupported method or version
        RuntimeError,  # encrypted
        EOFError,
        ValueError,
        OverflowError,
        OSError,
    ) as error:
        raise BatchMalformedError(
            f"the archive is not a readable zip file ({type(error).__name__})"
        ) from error


def members(file: IO[bytes], *, limit_bytes: int, max_members: int = MAX_MEMBERS) -> list[Member]:
    """Return the files of an archive in the order of its directory.

    Args:
        file: seekable.
        limit_bytes: largest total size of the unpacked members.
        max_members: largest number of members.

    Raises:
        BatchMalformedError: not a zip file; links, encryption, unsupported methods, overlapping
            members; unsafe or duplicated names.
        BatchUnpackedTooLargeError: the unpacked archive exceeds the limits.
    """
    with reading():
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    inventory = Inventory(limit_bytes, max_members=max_members)
    found = []
    for entry in entries:
        _check(entry)
        if entry.is_dir():
            inventory.add(entry.filename.rstrip("/"), 0)
            continue
        inventory.add(entry.filename, entry.file_size)
        opener = partial(archive.open, entry)
        found.append(Member(name=entry.filename, size=entry.file_size, open=opener, guard=reading))
    _check_apart(entries)
    return found


def _check(entry: zipfile.ZipInfo) -> None:
    if not entry.filename:  # zipfile would index its last character
        raise refusal(entry.filename, "has no name")
    kind = stat.S_IFMT(entry.external_attr >> _UNIX_MODE_SHIFT)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refusal(entry.filename, "is a link or a device, which are not supported")
    if entry.flag_bits & ENCRYPTED:
        raise refusal(entry.filename, "is encrypted")
    if entry.compress_type not in METHODS:
        raise refusal(entry.filename, "is compressed by a method other than deflate")
    if entry.is_dir() and entry.file_size:
        raise refusal(entry.filename, "is a folder with content")
    large = entry.file_size > MIN_EXPANSION_BYTES
    if large and entry.file_size > MAX_EXPANSION * entry.compress_size:
        raise BatchUnpackedTooLargeError(
            f"the member {entry.filename[:200]!r} unpacks to more than {MAX_EXPANSION} times its "
            "size: store it uncompressed (numpy.savez, zip -0)",
            member=entry.filename[:200],
            limit=MAX_EXPANSION,
        )


def _check_apart(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes, as in a zip bomb of overlapping files."""
    end = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset < end:
            raise refusal(entry.filename, "overlaps another member")
        end = entry.header_offset + entry.compress_size
