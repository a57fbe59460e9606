"""The batch formats, one row each.

A new format is a row here and a module with its reader. A format whose header the server can check
while the body arrives names a header reader; every other format is opaque to the API process, which
stores the bytes and has a worker read them before the batch is acknowledged.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

from numpy.typing import NDArray

from bn_ops.preprocess.images import FORMATS as DECODERS
from service.formats import tars, zips
from service.formats.image_sequence import archive_images, read_image_sequence
from service.formats.layout import HeaderReader
from service.formats.npy import NpyHeader, read_npy, read_npz
from service.formats.safetensors import SafetensorsHeader, read_safetensors

Arrays = dict[str, NDArray[Any]]
ReadArrays = Callable[[IO[bytes], Sequence[str], int], Iterator[Arrays]]
"""Yields the parts of a batch from a seekable file, the names of the model's inputs and a limit in
bytes on what the file may unpack to."""
ReadImages = Callable[[IO[bytes], int], Iterable[tuple[str, bytes]]]
"""Yields a name for messages and the encoded bytes of each image from a seekable file and a limit
in bytes on what the file may unpack to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFormat:
    """One format of a batch body; it holds arrays or images.

    Attributes:
        name: stored with each batch in the ledger.
        media_types: content types that select the format; empty for a format that only the server
            writes.
        suffixes: file name suffixes that select it in a form.
        header: returns a reader of the header for the names of the model's inputs; None if the
            format is opaque to the API process.
        arrays: reads the arrays, in a worker.
        images: reads the images, in a worker; exactly one of `arrays` and `images` is set.
        decoders: Pillow's names of the image formats that it may contain.
        module: optional module that the reader needs, or None.
    """

    name: str
    media_types: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    header: Callable[[tuple[str, ...]], HeaderReader] | None = None
    arrays: ReadArrays | None = None
    images: ReadImages | None = None
    decoders: tuple[str, ...] = DECODERS
    module: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether the worker will find the module that it needs; imports nothing."""
        return self.module is None or importlib.util.find_spec(self.module) is not None


def _read_arrow(file: IO[bytes], names: Sequence[str], limit_bytes: int) -> Iterator[Arrays]:
    from service.formats.arrow import read_arrow  # noqa: PLC0415 - optional, and heavy

    del names
    return read_arrow(file, limit_bytes=limit_bytes)


def _one_image(name: str, *suffixes: str) -> BatchFormat:
    return BatchFormat(
        name=name,
        media_types=(f"image/{name}",),
        suffixes=suffixes,
        images=lambda file, _limit: [(name, file.read())],  # the decoder limits the pixels
        decoders=(name.upper(),),
    )


_ALL = (
    BatchFormat(
        name="safetensors",
        media_types=("application/vnd.safetensors", "application/octet-stream"),
        suffixes=(".safetensors",),
        header=lambda _names: SafetensorsHeader(),
        arrays=lambda file, _names, _limit: iter([read_safetensors(file)]),
    ),
    BatchFormat(
        name="npy",
        media_types=("application/x-npy",),
        suffixes=(".npy",),
        header=NpyHeader,
        arrays=lambda file, names, _limit: iter([{names[0]: read_npy(file)}]),
    ),
    BatchFormat(
        name="npz",
        media_types=("application/x-npz",),
        suffixes=(".npz",),
        arrays=lambda file, names, limit: iter([read_npz(file, names, limit_bytes=limit)]),
    ),
    BatchFormat(
        name="arrow",
        media_types=("application/vnd.apache.arrow.stream",),
        suffixes=(".arrows", ".arrow"),
        arrays=_read_arrow,
        module="pyarrow",
    ),
    _one_image("jpeg", ".jpg", ".jpeg"),
    _one_image("png", ".png"),
    _one_image("webp", ".webp"),
    _one_image("bmp", ".bmp"),
    _one_image("gif", ".gif"),
    _one_image("tiff", ".tif", ".tiff"),
    BatchFormat(
        name="tar",
        media_types=("application/x-tar",),
        suffixes=(".tar",),
        images=lambda file, limit: archive_images(tars.members(file, limit_bytes=limit)),
    ),
    BatchFormat(
        name="zip",
        media_types=("application/zip",),
        suffixes=(".zip",),
        images=lambda file, limit: archive_images(zips.members(file, limit_bytes=limit)),
    ),
    # What the Open Inference Protocol's BYTES tensors are stored as.
    BatchFormat(
        name="images",
        images=lambda file, _limit: read_image_sequence(file),
    ),
)

FORMATS: Mapping[str, BatchFormat] = MappingProxyType({one.name: one for one in _ALL})
"""The formats by name."""
BY_MEDIA_TYPE: Mapping[str, BatchFormat] = MappingProxyType(
    {media_type: one for one in _ALL for media_type in one.media_types}
)
BY_SUFFIX: Mapping[str, BatchFormat] = MappingProxyType(
    {suffix: one for one in _ALL for suffix in one.suffixes}
)
