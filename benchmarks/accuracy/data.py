"""Labeled images and target domains of the accuracy benchmarks."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.corruptions import CORRUPTIONS, corrupt
from examples.digits.data import LabeledImages, load_mnist, load_sklearn_digits, split

__all__ = ["DEVELOPMENT", "Domain", "digit_domains", "fashion_domains", "read_fashion"]

# Installed by Debian's package dataset-fashion-mnist (MIT license).
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# Shrink was developed on these and on digits; the others were first used when it was finished.
DEVELOPMENT = frozenset({"gaussian_noise", "motion_blur", "frost", "contrast", "elastic_transform"})

TEST_IMAGES = 1_000
STREAM_IMAGES = 2_000
_DIGIT_TEST_IMAGES = 700  # of 1,797; the stream needs 1,024
_IMAGE_HEADER, _LABEL_HEADER = 16, 8  # bytes before the data in an IDX file


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A target domain: images to recalibrate with, and separate images to measure the error.

    Attributes:
        name: the corruption, or the source of the images.
        stream: the images for recalibration; labels are only used to sort them by class.
        test: disjoint from the stream.
        development: whether Shrink was developed on it.
    """

    name: str
    stream: LabeledImages
    test: LabeledImages
    development: bool


def read_fashion(part: str, folder: Path = FASHION_FOLDER) -> LabeledImages:
    """Read Fashion-MNIST, `train` (60,000) or `t10k` (10,000): values in [0, 1].

    Raises:
        FileNotFoundError: the Debian package dataset-fashion-mnist is not installed.
    """
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=_IMAGE_HEADER).reshape(-1, 1, 28, 28)
    return LabeledImages(
        images=images.astype(np.float32) / np.float32(255),
        labels=np.frombuffer(labels, np.uint8, offset=_LABEL_HEADER).astype(np.int64),
    )


def fashion_domains(folder: Path = FASHION_FOLDER) -> Iterator[Domain]:
    """Yield the Fashion-MNIST test images, clean and under each corruption."""
    whole = read_fashion("t10k", folder)
    test = whole.take(np.arange(TEST_IMAGES))
    stream = whole.take(np.arange(TEST_IMAGES, TEST_IMAGES + STREAM_IMAGES))
    yield Domain(name="clean", stream=stream, test=test, development=False)
    for name in CORRUPTIONS:
        yield Domain(
            name=name,
            stream=_corrupted(stream, name, seed=1),
            test=_corrupted(test, name, seed=0),
            development=name in DEVELOPMENT,
        )


def _corrupted(data: LabeledImages, name: str, *, seed: int) -> LabeledImages:
    return LabeledImages(images=corrupt(data.images, name, seed=seed), labels=data.labels)


def digit_domains(training: int) -> tuple[LabeledImages, tuple[Domain, ...]]:
    """Return MNIST for training, and two domains: scikit-learn's digits and MNIST (no shift).

    The stream of the MNIST domain is its training images: only 500 of 5,000 are held out, and those
    measure the error. The source statistics come from the same images, so there is no shift.
    """
    mnist, held_out = split(load_mnist(), training)
    order = np.random.default_rng(5).permutation(len(load_sklearn_digits().labels))
    digits = load_sklearn_digits().take(order)
    part = len(order) - _DIGIT_TEST_IMAGES
    return mnist, (
        Domain(
            name="digits",
            stream=digits.take(np.arange(part)),
            test=digits.take(np.arange(part, len(order))),
            development=True,
        ),
        Domain(name="mnist", stream=mnist, test=held_out, development=True),
    )
