"""Files of samples: finding them in folders, and naming the one that a sample comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from bnrecal_client._encoding.samples import SampleFilter

__all__ = ["FoundFiles", "SampleFile", "SampleFiles", "find", "sample_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """The files of some paths.

    Attributes:
        paths: files that were named, and files of known kinds in folders.
        ignored: number of other files in the folders, by suffix in lower case; hidden files are not
            counted.
    """

    paths: tuple[Path, ...]
    ignored: Mapping[str, int]


def find(paths: Iterable[Path], suffixes: Collection[str]) -> FoundFiles:
    """Return the files of some paths; those of a folder and its subfolders sorted by path.

    Args:
        paths: files, which are returned whatever they are, and folders.
        suffixes: the kinds to return from folders, in lower case.
    """
    found: list[Path] = []
    ignored: Counter[str] = Counter()
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        for child in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in child.relative_to(path).parts)
            if hidden or not child.is_file():
                continue
            if child.suffix.lower() in suffixes:
                found.append(child)
            else:
                ignored[child.suffix.lower() or "no suffix"] += 1
    return FoundFiles(paths=tuple(found), ignored=MappingProxyType(dict(ignored)))


class SampleFile(Protocol):
    """A file that holds samples."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def samples(self) -> int:
        """Number of samples in it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFiles:
    """Files as one stream of batches.

    Attributes:
        batch_size: samples per batch; the last batch may be smaller.
        samples: number of samples that are used, bad ones included.
        ignored: number of files of other kinds in the folders, by suffix.
        bad: leaves bad samples out; None to keep every sample.
    """

    batch_size: int
    samples: int
    ignored: Mapping[str, int]
    bad: SampleFilter | None = None

    def __len__(self) -> int:
        """Return the number of batches, if all samples have the same shape and type."""
        return (self.samples + self.batch_size - 1) // self.batch_size


def sample_name(files: Iterable[SampleFile], sample: int, noun: str) -> str:
    """Return the file of a sample, and the sample's place in it if there are several.

    Args:
        files: the files, in the order of the stream.
        sample: index of the sample over all files.
        noun: what a sample of these files is called.

    Raises:
        IndexError: the files hold fewer samples.
    """
    for file in files:
        if sample < file.samples:
            return str(file.path) if file.samples == 1 else f"{file.path}, {noun} {sample}"
        sample -= file.samples
    raise IndexError(sample)
