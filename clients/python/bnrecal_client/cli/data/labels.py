"""Labeled samples: an array of labels, a CSV file of image names, or a folder for each class."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnrecal_client._encoding.samples import SampleFilter, finite_samples
from bnrecal_client.cli.data.array_batches import keyed, open_data, unkeyed
from bnrecal_client.cli.data.array_files import open_table
from bnrecal_client.cli.data.image_files import image_files, open_images
from bnrecal_client.errors import InputError, OptionError
from bnrecal_client.images import Images

__all__ = ["Labels", "labeled"]

_CSV_COLUMNS = 2
_SHOWN = 3

_Pair = tuple[object, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Where the labels come from, and how names become classes.

    Attributes:
        path: an `.npy` file, a `.csv` file with the columns file and label, or a folder with one
            folder of images for each class.
        classes: names of the classes in the order of the model's output; None if labels are
            numbers, or the model's classes are the class folders in alphabetical order.
        outputs: number of classes of the model's output; None if unknown.
    """

    path: Path
    classes: tuple[str, ...] | None
    outputs: int | None


def labeled(
    labels: Labels,
    data: Sequence[Path],
    *,
    images: bool,
    batch_size: int,
    integers: bool = True,
    bad: SampleFilter | None = None,
) -> Iterator[_Pair]:
    """Yield samples with their labels, batch by batch.

    Args:
        labels: where the labels come from.
        data: the data of the command; an `.npy` file labels its first samples.
        images: whether the data are images, which give batches of `Images`.
        batch_size: samples per batch.
        integers: whether the labels of an `.npy` file must be classes; the caller's own metric
            may take others.
        bad: leaves bad samples out; None to keep every sample.

    Raises:
        InputError: the labels cannot be read, or do not fit the data.
        OptionError: a label is not the name of a class.
    """
    path = labels.path
    if path.suffix.lower() == ".npy" and path.is_file():
        known = open_table(path).read()
        if not isinstance(known, np.ndarray) or known.ndim == 0:
            raise InputError(f"{path} is not a single array with one label per sample")
        if integers and known.dtype.kind not in "iu":
            raise InputError(
                f"{path} holds {known.dtype}: a label is an integer, the index of a class in the "
                "model's output"
            )
        first = _first_images if images else _first_arrays
        yield from first(data, known, path, batch_size=batch_size, bad=bad)
        return
    if not images:
        raise InputError(
            f"{path} is not an .npy file: arrays take one label per sample from an .npy file"
        )
    if path.is_dir():
        files = _class_folders(labels)
    elif path.suffix.lower() == ".csv" and path.is_file():
        files = _csv(labels)
    else:
        raise InputError(
            f"there is no .npy or .csv file of labels and no folder of class folders {path}"
        )
    paths = [file for file, _ in files]
    numbers = np.array([number for _, number in files], dtype=np.int64)
    yield from _first_images(paths, numbers, path, batch_size=batch_size, bad=bad)


def _first_arrays(
    data: Sequence[Path],
    known: NDArray[Any],
    path: Path,
    *,
    batch_size: int,
    bad: SampleFilter | None,
) -> Iterator[_Pair]:
    found = open_data(data, batch_size=batch_size, limit=len(known))
    _require_samples(found.samples, known, path)
    start = 0
    for batch in found:
        arrays = keyed(batch)
        stop = start + len(next(iter(arrays.values())))
        good = np.ones(stop - start, np.bool_) if bad is None else finite_samples(arrays)
        if good.any():
            kept = batch if good.all() else unkeyed({k: a[good] for k, a in arrays.items()})
            yield kept, known[start:stop][good]
        start = stop


def _first_images(
    data: Sequence[Path],
    known: NDArray[Any],
    path: Path,
    *,
    batch_size: int,
    bad: SampleFilter | None,
) -> Iterator[_Pair]:
    found = open_images(data, batch_size=batch_size, limit=len(known), bad=bad)
    _require_samples(found.samples, known, path)
    numbered = found.numbered()
    while batch := tuple(islice(numbered, batch_size)):
        yield Images(items=tuple(item for _, item in batch)), known[[place for place, _ in batch]]


def _require_samples(samples: int, known: NDArray[Any], path: Path) -> None:
    if samples < len(known):
        raise InputError(f"{path} has {len(known)} labels, the data only {samples} samples")


def _class_folders(labels: Labels) -> list[tuple[Path, int]]:
    """Return the images of class folders with their classes.

    Raises:
        OptionError: the folders cannot be matched with the model's classes.
    """
    folders = [child for child in sorted(labels.path.iterdir()) if _is_class_folder(child)]
    names = [folder.name for folder in folders]
    if not folders:
        raise InputError(f"the folder {labels.path} has no folder for each class with images in it")
    if labels.classes is None and not all(name.isdecimal() for name in names):
        if labels.outputs is not None and labels.outputs != len(folders):
            raise OptionError(
                f"{labels.path} has {len(folders)} class folders ({_some(names)}), the model "
                f"{labels.outputs} classes: name the folders by the number of their class, or pass "
                "the names of all classes with --classes"
            )
        numbers = list(range(len(folders)))
    else:
        numbers = [_class_number(name, labels) for name in names]
    return [
        (file, number)
        for folder, number in zip(folders, numbers, strict=True)
        for file in image_files([folder])
    ]


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and bool(image_files([path]))


def _csv(labels: Labels) -> list[tuple[Path, int]]:
    """Return the images of a CSV file with their classes.

    A name is looked up next to the CSV file, then in the current folder.

    Raises:
        InputError: a line is not a file and a label, or an image is missing.
        OptionError: a label is not the name of a class.
    """
    path = labels.path
    found: list[tuple[Path, int]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from error
    for number, line in enumerate(lines, 1):
        if len(line) != _CSV_COLUMNS:
            raise InputError(f"{path}, line {number}: expected file,label; got {','.join(line)}")
        name, label = (cell.strip() for cell in line)
        if number == 1 and (name.lower(), label.lower()) == ("file", "label"):
            continue
        image = next((p for p in (path.parent / name, Path(name)) if p.is_file()), None)
        if image is None:
            raise InputError(f"{path}, line {number}: there is no image {name}")
        found.append((image, _class_number(label, labels)))
    if not found:
        raise InputError(f"{path} holds no labels")
    return found


def _class_number(name: str, labels: Labels) -> int:
    if labels.classes is not None and name in labels.classes:
        return labels.classes.index(name)
    if name.isdecimal():
        return int(name)
    known = "numbers are expected without --classes"
    if labels.classes is not None:
        known = f"--classes has {_some(labels.classes)}"
    raise OptionError(f"{labels.path}: the label {name!r} is not a class; {known}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _SHOWN else f"{', '.join(names[:_SHOWN])}, …"
