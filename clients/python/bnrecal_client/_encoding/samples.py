"""Bad samples: NaN, Inf and images that cannot be decoded, found, named or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
import safetensors.numpy
from msgspec import structs
from numpy.typing import NDArray

from bnrecal_client._encoding.batches import EncodedBatch
from bnrecal_client.errors import BatchError, OptionError
from bnrecal_client.images import Images, image_fault
from bnrecal_client.models import SkippedSample

__all__ = [
    "NOT_FINITE",
    "OnBadSample",
    "SampleFilter",
    "check_on_bad_sample",
    "finite_samples",
    "first_not_finite",
    "naming_the_sample",
    "of_the_source",
]

OnBadSample = Literal["raise", "skip"]
KeyT = TypeVar("KeyT", bound="str | int")

NOT_FINITE = "batch-not-finite"
"""The code of a batch with NaN or Inf."""


def check_on_bad_sample(value: str) -> None:
    """Check the value of `on_bad_sample=`.

    Raises:
        OptionError: it is unknown.
    """
    if value not in get_args(OnBadSample):
        raise OptionError(f"on_bad_sample is {value!r}; expected 'raise' or 'skip'")


class SampleFilter:
    """Leaves bad samples out of the batches of one stream, in order.

    Attributes:
        samples: number of samples seen so far.
        skipped: those that were left out.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.skipped: list[SkippedSample] = []

    def restart(self) -> None:
        """Forget everything, for a stream that is read again from its start."""
        self.samples = 0
        self.skipped.clear()

    def arrays(self, batch: Mapping[KeyT, NDArray[np.generic]]) -> dict[KeyT, NDArray[np.generic]]:
        """Return a batch without the samples that hold NaN or Inf; it may be empty.

        Arrays with different numbers of samples are returned as they are: they fit no model.
        """
        if len({len(array) for array in batch.values()}) != 1:
            return dict(batch)
        good = finite_samples(batch)
        first, self.samples = self.samples, self.samples + len(good)
        self.skipped += [
            SkippedSample(index=first + int(place), reason="NaN or Inf")
            for place in np.flatnonzero(~good)
        ]
        return dict(batch) if good.all() else {key: array[good] for key, array in batch.items()}

    def images(self, batch: Images) -> Images:
        """Return a batch without the images that cannot be decoded; it may be empty.

        Raises:
            OptionError: Pillow is not installed.
        """
        items = tuple(item for item in batch.items if self.accepts(*item))
        return Images(items=items)

    def accepts(self, name: str, content: bytes) -> bool:
        """Return whether the next image can be decoded; record it if it cannot."""
        fault = image_fault(content)
        if fault is not None:
            self.skip(name, fault)
            return False
        self.samples += 1
        return True

    def skip(self, name: str, reason: str) -> None:
        """Record that the next sample is left out."""
        self.skipped.append(SkippedSample(index=self.samples, name=name, reason=reason))
        self.samples += 1


def of_the_source(skipped: Sequence[SkippedSample]) -> list[SkippedSample]:
    """Return samples of the source stream with names that show which stream they are from."""
    return [
        skip if skip.name is not None else structs.replace(skip, name=f"source sample {skip.index}")
        for skip in skipped
    ]


def finite_samples(batch: Mapping[KeyT, NDArray[np.generic]]) -> NDArray[np.bool_]:
    """Return which samples of a batch hold neither NaN nor Inf in any array, shape (N,)."""
    good = np.ones(len(next(iter(batch.values()))), dtype=np.bool_)
    for array in batch.values():
        if array.dtype.kind not in "iub":
            axes = tuple(range(1, array.ndim))
            good &= np.isfinite(array).all(axis=axes)
    return good


def first_not_finite(batch: Mapping[KeyT, NDArray[np.generic]]) -> int | None:
    """Return the place of the first sample with NaN or Inf; None if all are finite."""
    bad = np.flatnonzero(~finite_samples(batch))
    return int(bad[0]) if bad.size else None


def naming_the_sample(error: BatchError, batch: EncodedBatch, *, first: int) -> BatchError:
    """Return the error for a batch with NaN or Inf with the index of the sample.

    Args:
        error: the server's error; others than that for NaN and Inf are returned unchanged.
        batch: the batch that the server rejected.
        first: index of its first sample in the stream.
    """
    if error.code != NOT_FINITE:
        return error
    place = first_not_finite(safetensors.numpy.load(batch.body))
    if place is None:
        return error
    return BatchError(
        f"sample {first + place} of the stream (sample {place} of batch {error.batch}), input "
        f"{error.input!r}, holds NaN or Inf: remove or repair it, or leave bad samples out with "
        'on_bad_sample="skip"',
        batch=error.batch,
        sample=first + place,
        input_name=error.input,
        problem=error.problem,
        recalibration_id=error.recalibration_id,
    )
