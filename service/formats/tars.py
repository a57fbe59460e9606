"""Tar archives such as WebDataset shards, read member by member; only for a worker.

A member's header is checked before its content is read. Compressed tar files are not supported:
their unpacked size is not known before they are unpacked.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO

from service.errors import BatchMalformedError
from service.formats.members import Inventory, Member, refusal


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
        OSError,
        KeyError,
    ) as error:
        raise BatchMalformedError(
            f"the archive is not a readable tar file ({type(error).__name__}); "
            "decompress it first (gunzip)"
        ) from error


def members(file: IO[bytes], *, limit_bytes: int) -> Iterator[Member]:
    """Yield the files of an archive in order; read each one before requesting the next.

    Args:
        file: seekable.
        limit_bytes: largest total size of the members.

    Raises:
        BatchMalformedError: not a complete tar file; links, devices, sparse files; unsafe or
            duplicated names.
        BatchUnpackedTooLargeError: the archive exceeds the limits.
    """
    inventory = Inventory(limit_bytes)
    with _reading():
        # Closing it would not close `file`, which is the only resource.
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
    while True:
        with _reading():
            entry = archive.next()
        if entry is None:
            break
        # tarfile keeps every header, and a shard has many.
        archive.members.clear()  # type: ignore[attr-defined]  # its stubs lack it
        inventory.add(entry.name, entry.size)
        if entry.isdir():
            continue
        if not entry.isreg() or entry.issparse():
            raise refusal(
                entry.name, "is a link, a device or a sparse file, which are not supported"
            )
        opener = partial(_open, archive, entry)
        yield Member(name=entry.name, size=entry.size, open=opener, guard=_reading)
    _check_end(file, archive)


def _open(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(entry)
    assert stream is not None  # only links have none
    return stream


def _check_end(file: IO[bytes], archive: tarfile.TarFile) -> None:
    """Refuse an archive that does not end here: tarfile treats a damaged header as the end."""
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise BatchMalformedError(
            f"the tar archive is damaged or truncated: neither a member nor the end mark follows "
            f"after {archive.offset} bytes"
        )
