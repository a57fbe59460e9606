"""Malformed and malicious archives."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def npz(*, packed: bool = False, **arrays: NDArray[np.generic]) -> bytes:
    """Write arrays with numpy."""
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes], *, packed: bool = False) -> bytes:
    """Write files as a zip archive."""
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zip_link(name: str, target: str) -> bytes:
    """Write a zip archive with a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, target)
    return buffer.getvalue()


def with_flag(archive: bytes, flag: int) -> bytes:
    """Set a flag of each member, in the central directory and in the local headers."""
    found = bytearray(archive)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = found.find(signature)
        while place >= 0:
            bits = struct.unpack_from("<H", found, place + offset)[0] | flag
            struct.pack_into("<H", found, place + offset, bits)
            place = found.find(signature, place + 4)
    return bytes(found)


def with_size(archive: bytes, size: int) -> bytes:
    """Set a false size in the central directory and local header of a one-member archive."""
    found = bytearray(archive)
    struct.pack_into("<I", found, found.find(b"PK\x03\x04") + 22, size)
    struct.pack_into("<I", found, found.find(b"PK\x01\x02") + 24, size)
    return bytes(found)


def overlapping(content: bytes, copies: int) -> bytes:
    """Write one compressed member and many directory entries that refer to it."""
    single = zipped({"a0.npy": content}, packed=True)
    directory = single.find(b"PK\x01\x02")
    end = single.find(b"PK\x05\x06")
    entry = single[directory:end]
    entries = b"".join(entry.replace(b"a0.npy", b"a%d.npy" % n) for n in range(copies))
    tail = bytearray(single[end:])
    struct.pack_into("<HHII", tail, 8, copies, copies, len(entries), directory)
    return single[:directory] + entries + bytes(tail)


def tarred(members: Mapping[str, bytes]) -> bytes:
    """Write files as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def tar_entry(name: str, kind: bytes, target: str = "") -> bytes:
    """Write a tar archive with one member that is not a regular file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type = kind
        entry.linkname = target
        archive.addfile(entry)
    return buffer.getvalue()
