"""What a report needs to know of a stream, besides moments, where the stream is read in shards.

A run in one process looks at each sample while it reads the stream: it takes a digest, a few
features, and copies of the first samples and of the probe (see `ObservedStream`). A shard does the
same for its part and returns a `ShardObservation` of some 170 bytes per sample. From those of all
shards follow the positions of the probe's samples, which are then requested by their digests.

Samples have a byte form too: the length of a JSON header (four bytes, little-endian), the header,
and the bytes of the arrays in its order.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.core.engine import BatchAdapter
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.probe import Probe
from bn_ops.errors import ShardError

__all__ = ["PartRecorder", "ShardObservation", "samples_from_bytes", "samples_to_bytes"]

BatchT = TypeVar("BatchT")

DIGEST_BYTES = 32
"""Size of the sha256 of a sample."""

_LENGTH = struct.Struct("<I")
_HEADER = struct.Struct("<QQI")
_MAGIC = b"bnobs\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardObservation:
    """What one shard saw of its samples.

    Attributes:
        batches: number of batches that it read.
        digests: the sha256 of each sample, in order.
        features: (n, F) float64, see `bn_ops.diagnostics.autocorrelation.sample_features`.
    """

    batches: int
    digests: tuple[bytes, ...]
    features: Float64Array

    def to_bytes(self) -> bytes:
        """Return the byte form."""
        features = np.ascontiguousarray(self.features, dtype="<f8")
        head = _HEADER.pack(self.batches, len(self.digests), features.shape[1])
        return b"".join([_MAGIC, head, *self.digests, features.tobytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardObservation:
        """Return the observation that `to_bytes` encoded.

        Raises:
            ShardError: the bytes are anything else.
        """
        start = len(_MAGIC) + _HEADER.size
        if len(data) < start or not data.startswith(_MAGIC):
            raise ShardError("the bytes are not an observation of this version of bnrecal")
        batches, samples, columns = _HEADER.unpack_from(data, len(_MAGIC))
        if len(data) - start != samples * (DIGEST_BYTES + 8 * columns) or batches > samples:
            raise ShardError("the observation does not have the length that its header says")
        values = start + samples * DIGEST_BYTES
        digests = tuple(data[i : i + DIGEST_BYTES] for i in range(start, values, DIGEST_BYTES))
        features = np.frombuffer(data, "<f8", offset=values).astype(np.float64)
        return cls(batches=batches, digests=digests, features=features.reshape(samples, columns))


class PartRecorder(Generic[BatchT]):
    """Collects an observation while a part of the stream is read; see `ObservedStream`.

    Args:
        adapter: how to handle one batch.
    """

    def __init__(self, adapter: BatchAdapter[BatchT]) -> None:
        self._digests: list[bytes] = []
        self._features: list[Float64Array] = []
        self.probe = Probe(adapter, on_digest=self._digests.append)

    def add_features(self, features: Float64Array) -> None:
        """Add the features of the next samples."""
        self._features.append(features)

    def observation(self, batches: int) -> ShardObservation:
        """Return the observation of all samples so far, which came in some number of batches."""
        found = self._features or [np.zeros((0, 0))]
        return ShardObservation(
            batches=batches, digests=tuple(self._digests), features=np.concatenate(found)
        )

    def samples(self, digests: Sequence[bytes]) -> list[BatchT]:
        """Return samples of the probe by their digests.

        Raises:
            ShardError: one is not among the samples with the smallest digests.
        """
        found = [self.probe.one(digest) for digest in digests]
        if any(one is None for one in found):
            raise ShardError("a sample was requested that the shard does not keep")
        return [one for one in found if one is not None]


def samples_to_bytes(batches: Sequence[Batch]) -> bytes:
    """Return the byte form of a few samples."""
    header = [
        [[name, array.dtype.name, list(array.shape)] for name, array in batch.items()]
        for batch in batches
    ]
    text = json.dumps(header).encode()
    arrays = [np.ascontiguousarray(array) for batch in batches for array in batch.values()]
    content = [array.reshape(-1).view(np.uint8).tobytes() for array in arrays]
    return b"".join([_LENGTH.pack(len(text)), text, *content])


def samples_from_bytes(data: bytes) -> list[Batch]:
    """Return the samples that `samples_to_bytes` encoded.

    Raises:
        ShardError: the bytes are anything else.
    """
    if len(data) < _LENGTH.size:
        raise ShardError("the samples are cut off")
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    try:
        header = json.loads(data[_LENGTH.size : start])
        batches = [dict(_shapes(batch)) for batch in header]
    except (ValueError, TypeError, RecursionError) as error:
        raise ShardError("the header of the samples is damaged") from error
    kinds = [kind for batch in batches for kind in batch.values()]
    if len(data) - start != sum(dtype.itemsize * math.prod(shape) for dtype, shape in kinds):
        raise ShardError("the samples do not have the length that their header says")
    return list(_read(batches, data, start))


_Kind = tuple[np.dtype[np.generic], tuple[int, ...]]


def _shapes(batch: Any) -> Iterator[tuple[str, _Kind]]:
    for name, dtype, shape in batch:
        found = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(str(dtype))
        sizes = tuple(shape)
        if found.hasobject or not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError
        yield str(name), (found, sizes)


def _read(batches: Sequence[Mapping[str, _Kind]], data: bytes, offset: int) -> Iterator[Batch]:
    for batch in batches:
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, (dtype, shape) in batch.items():
            count = math.prod(shape)
            flat = np.frombuffer(data, dtype, count=count, offset=offset)
            arrays[name] = flat.reshape(shape).copy()
            offset += count * dtype.itemsize
        yield arrays
