"""Read the few samples of a preview or a prediction; images that cannot be read are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import ImageError, OptionError
from bn_ops.preprocess import Preprocess, image_arrays
from service.formats.layout import inputs_from_json
from service.formats.registry import FORMATS, Arrays
from service.workers.messages import WorkerTask

MAX_SAMPLES = 64
"""The first samples of a file are read, the rest is ignored. The input check needs no more."""


@dataclass(slots=True)
class SampleImages:
    """Encoded images of a file, at most `MAX_SAMPLES`.

    Attributes:
        images: name and content of each.
        decoders: Pillow's names of the formats that they may have.
        skipped: name and reason of each that cannot be used.
    """

    images: list[tuple[str, bytes]]
    decoders: tuple[str, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def arrays(self, preprocess: Preprocess) -> list[tuple[str, NDArray[Any]]]:
        """Return the name and the array of each image that can be used."""
        found: list[tuple[str, NDArray[Any]]] = []
        for name, content in self.images:
            try:
                (array,) = image_arrays([(name, content)], preprocess, formats=self.decoders)
            except ImageError as error:
                self.skipped[name] = error.message
            else:
                found.append((name, array[0]))
        return found

    def usable(self, preprocess: Preprocess) -> list[tuple[str, NDArray[Any]]]:
        """Return what `arrays` returns, and require at least one image.

        Raises:
            ImageError: no image can be used.
        """
        found = self.arrays(preprocess)
        self.require_any(found)
        return found

    def require_any(self, found: Sequence[object]) -> None:
        """Reject a file without an image that can be used.

        Raises:
            ImageError: `found` is empty; the message gives the reason for the first image.
        """
        if not found:
            reason = next(iter(self.skipped.values()), "the file holds no image")
            raise ImageError(f"no image can be used: {reason}")

    def skipped_json(self) -> list[dict[str, str]]:
        """Return the member `skipped` of an answer."""
        return [{"name": name, "reason": reason} for name, reason in self.skipped.items()]


def holds_images(task: WorkerTask) -> bool:
    """Return whether the task's file holds images; otherwise it holds arrays."""
    return FORMATS[task.samples_format].images is not None


def read_images(task: WorkerTask) -> SampleImages:
    """Return the first images of the task's file.

    Raises:
        BatchMalformedError: it is not a file of its format.
    """
    known = FORMATS[task.samples_format]
    if known.images is None:
        raise OptionError(f"a file of format {known.name} holds no images")
    with Path(task.samples).open("rb") as file:
        images = list(islice(known.images(file, task.limits.batch_bytes), MAX_SAMPLES))
    return SampleImages(images=images, decoders=known.decoders)


def read_arrays(task: WorkerTask) -> Iterator[Arrays]:
    """Yield the first samples of the task's file of arrays.

    Raises:
        BatchMalformedError: it is not a file of its format.
    """
    known = FORMATS[task.samples_format]
    if known.arrays is None:
        raise OptionError(f"a file of format {known.name} holds no arrays")
    names = [one.name for one in inputs_from_json(task.inputs)]
    left = MAX_SAMPLES
    with Path(task.samples).open("rb") as file:
        for part in known.arrays(file, names, task.limits.batch_bytes):
            some = {name: np.asarray(array[:left]) for name, array in part.items()}
            yield some
            left -= min((len(array) for array in some.values()), default=left)
            if left <= 0:
                return
