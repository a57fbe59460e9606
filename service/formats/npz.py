"""`.npz`: a zip archive of `.npy` files, one for each input of the model.

Only for a worker. Each header is read by the same reader as that of a lone `.npy`, and held against
the archive's directory, before numpy allocates anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BatchMalformedError
from service.formats import zips
from service.formats.members import Member, refusal, shown
from service.formats.npy import HEADER_LIMIT_BYTES, NpyHeader

Arrays = dict[str, NDArray[Any]]
_SUFFIX = ".npy"
# What numpy.savez calls arrays that were given without names.
_UNNAMED = "arr_"


def read_npz(file: IO[bytes], inputs: Sequence[str], *, limit_bytes: int) -> Arrays:
    """Read the arrays under the names of the model's inputs; unnamed ones in the inputs' order.

    Raises:
        BatchMalformedError: no such archive, or a member that is no plain array.
        BatchUnpackedTooLargeError: it unpacks to too much.
    """
    with zips.reading():
        members = {_stem(one): one for one in zips.members(file, limit_bytes=limit_bytes)}
        sizes = {name: _header_bytes(member) for name, member in members.items()}
        arrays = {name: _array(members[name], sizes[name]) for name in members}
    return _named(arrays, inputs)


def _named(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[str]) -> Arrays:
    unnamed = [f"{_UNNAMED}{place}" for place in range(len(arrays))]
    if set(arrays) == set(unnamed) != set(inputs) and len(arrays) == len(inputs):
        return dict(zip(inputs, (arrays[name] for name in unnamed), strict=True))
    return dict(arrays)


def _stem(member: Member) -> str:
    if not member.name.endswith(_SUFFIX):
        raise refusal(member.name, "is no .npy file; an .npz holds nothing else")
    return member.name.removesuffix(_SUFFIX)


def _header_bytes(member: Member) -> int:
    """Check a member's header and return its length."""
    reader = NpyHeader((member.name,))
    used = 0
    with member.open() as stream:
        layout = None
        while layout is None:
            piece = stream.read(HEADER_LIMIT_BYTES)
            if not piece:
                raise refusal(member.name, "ends inside its header")
            try:
                layout, taken = reader.feed(memoryview(piece))
            except BatchMalformedError as error:
                text = f"the member {shown(member.name)}: {error.message}"
                raise BatchMalformedError(text, member=shown(member.name)) from error
            used += taken
    promised = sum(segment.length for segment in layout.segments)
    if used + promised != member.size:
        fault = f"has {member.size} bytes, its header promises {used + promised}"
        raise refusal(member.name, fault)
    return used


def _array(member: Member, header_bytes: int) -> NDArray[Any]:
    with member.open() as stream:
        array: NDArray[Any] = np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=header_bytes
        )
        if stream.read(1):  # reads to the end, where the checksum is compared
            raise refusal(member.name, "goes on after its data")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
