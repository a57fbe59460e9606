"""Tar archives, WebDataset shards among them, read member by member.

Only for a worker. A member's header is judged before its content is touched; compressed tar files
are not read, for nothing bounds what they unpack to before they have done so.
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
            f"the archive is no tar file that can be read ({type(error).__name__}); "
            "compressed ones are unpacked first (gunzip)"
        ) from error


def members(file: IO[bytes], *, limit_bytes: int) -> Iterator[Member]:
    """Yield the files of an archive in their order; each is read before the next is asked for.

    Args:
        file: seekable.
        limit_bytes: most bytes of all members.

    Raises:
        BatchMalformedError: no tar file, or one that was cut off; links, devices, sparse files,
            names that lead elsewhere or stand there twice.
        BatchUnpackedTooLargeError: too much of it.
    """
    inventory = Inventory(limit_bytes)
    with _reading():
        # Closing it would not close `file`, and that is all there is to close.
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
    while True:
        with _reading():
            entry = archive.next()
        if entry is None:
            break
        # tarfile remembers every header, and a shard has many.
        archive.members.clear()  # type: ignore[attr-defined]  # its stubs lack it
        inventory.add(entry.name, entry.size)
        if entry.isdir():
            continue
        if not entry.isreg() or entry.issparse():
            raise refusal(entry.name, "is a link, a device or sparse, which are never followed")
        opener = partial(_open, archive, entry)
        yield Member(name=entry.name, size=entry.size, open=opener, guard=_reading)
    _check_end(file, archive)


def _open(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(entry)
    assert stream is not None  # only links have none
    return stream


def _check_end(file: IO[bytes], archive: tarfile.TarFile) -> None:
    """Refuse an archive that does not end here: tarfile takes damage for an end in silence."""
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise BatchMalformedError(
            f"the tar archive is damaged or cut off: after {archive.offset} bytes there is neither "
            "a member nor its end"
        )
