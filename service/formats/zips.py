"""Zip archives, judged by their directory before a byte is unpacked.

Only for a worker: the API process stores an archive as it came and never looks into it.
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
from service.formats.members import Inventory, Member, refusal

METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# Deflate reaches 1,032 : 1 on zeros; measured data of the real world stays far below this.
MOST_EXPANSION = 200
# Small members may shrink as they like: a mask of zeros is honest.
EXPANSION_MATTERS_BYTES = 1 << 20
ENCRYPTED = 0x1
_UNIX_MODE_SHIFT = 16


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn what the standard library raises on a broken archive into this package's error."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,  # a method or version that zipfile does not know
        RuntimeError,  # encrypted
        EOFError,
        ValueError,
        OverflowError,
        OSError,
    ) as error:
        raise BatchMalformedError(
            f"the archive is no zip file that can be read ({type(error).__name__})"
        ) from error


def members(file: IO[bytes], *, limit_bytes: int) -> list[Member]:
    """List the files of an archive in the order of its directory.

    Args:
        file: seekable.
        limit_bytes: most bytes that all members may unpack to.

    Raises:
        BatchMalformedError: no zip file; or links, encryption, unusual methods, members that
            overlap, names that lead elsewhere or stand there twice.
        BatchUnpackedTooLargeError: it unpacks to too much.
    """
    with reading():
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    inventory = Inventory(limit_bytes)
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
    if not entry.filename:  # zipfile would look at its last letter
        raise refusal(entry.filename, "has no name")
    kind = stat.S_IFMT(entry.external_attr >> _UNIX_MODE_SHIFT)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refusal(entry.filename, "is a link or a device, which are never followed")
    if entry.flag_bits & ENCRYPTED:
        raise refusal(entry.filename, "is encrypted")
    if entry.compress_type not in METHODS:
        raise refusal(entry.filename, "is packed by another method than deflate")
    if entry.is_dir() and entry.file_size:
        raise refusal(entry.filename, "is a folder with a content")
    large = entry.file_size > EXPANSION_MATTERS_BYTES
    if large and entry.file_size > MOST_EXPANSION * entry.compress_size:
        raise BatchUnpackedTooLargeError(
            f"the member {entry.filename[:200]!r} unpacks to more than {MOST_EXPANSION} times its "
            "size: store it unpacked (numpy.savez, zip -0)",
            member=entry.filename[:200],
            limit=MOST_EXPANSION,
        )


def _check_apart(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share their bytes: one kernel under many names is how a bomb grows."""
    end = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset < end:
            raise refusal(entry.filename, "overlaps another member")
        end = entry.header_offset + entry.compress_size
