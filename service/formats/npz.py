"""`.npz` files: zip archives of one `.npy` file for each input of the model; only for a worker.

Each header is checked like that of a single `.npy` file and compared with the archive's directory
before numpy allocates memory.
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
# numpy.savez gives this prefix to arrays that have no name.
_UNNAMED = "arr_"


def read_npz(file: IO[bytes], inputs: Sequence[str], *, limit_bytes: int) -> Arrays:
    """Return the arrays by input name; unnamed arrays are assigned in the order of the inputs.

    Raises:
        BatchMalformedError: not such an archive, or a member that is not a plain array.
        BatchUnpackedTooLargeError: the unpacked archive exceeds the limits.
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
        raise refusal(member.name, "is not an .npy file; an .npz contains nothing else")
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
    announced = sum(segment.length for segment in layout.segments)
    if used + announced != member.size:
        fault = f"has {member.size} bytes, its header announces {used + announced}"
        raise refusal(member.name, fault)
    return used


def _array(member: Member, header_bytes: int) -> NDArray[Any]:
    with member.open() as stream:
        array: NDArray[Any] = np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=header_bytes
        )
        if stream.read(1):  # reads to the end, where zipfile checks the CRC
            raise refusal(member.name, "continues after its data")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
