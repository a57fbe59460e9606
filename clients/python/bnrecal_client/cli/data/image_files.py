"""Images as one stream of batches: files, folders, tar archives and zip archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from bnrecal_client.errors import InputError
from bnrecal_client.images import SUFFIXES, Images

__all__ = ["ImageSet", "open_images"]

_Named = tuple[str, bytes]
_ARCHIVES = frozenset({".tar", ".zip"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One file with images.

    Attributes:
        path: the file.
        samples: number of images in it.
        read: yields name and bytes of each, in order.
    """

    path: Path
    samples: int
    read: Callable[[Path], Iterator[_Named]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Image files as one stream of batches, read while iterating.

    Attributes:
        files: the files, in order.
        batch_size: images per batch; only the last is smaller.
        samples: number of images that are used.
    """

    files: tuple[ImageFile, ...]
    batch_size: int
    samples: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return (self.samples + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[Images]:
        every = chain.from_iterable(one.read(one.path) for one in self.files)
        images = islice(every, self.samples)
        while items := tuple(islice(images, self.batch_size)):
            yield Images(items=items)


def open_images(paths: Sequence[Path], *, batch_size: int, limit: int | None) -> ImageSet:
    """Return the images of some paths; only the directories of archives are read.

    Raises:
        InputError: there is no image, or a file is neither an image nor an archive.
    """
    files = tuple(one for path in paths for one in _files(path))
    held = sum(one.samples for one in files)
    if not held:
        raise InputError(f"there is no image ({_kinds()}) in {', '.join(map(str, paths))}")
    samples = held if limit is None else min(held, limit)
    return ImageSet(files=files, batch_size=batch_size, samples=samples)


def _files(path: Path) -> Iterator[ImageFile]:
    """Yield the image files of a path; those of a folder and its subfolders sorted by path."""
    if path.is_dir():
        known = SUFFIXES | _ARCHIVES
        for child in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in child.relative_to(path).parts)
            if child.suffix.lower() in known and not hidden and child.is_file():
                yield _image_file(child)
    elif not path.is_file():
        raise InputError(f"there is no data file {path}")
    else:
        yield _image_file(path)


def _image_file(path: Path) -> ImageFile:
    kind = path.suffix.lower()
    try:
        if kind == ".tar":
            return ImageFile(path=path, samples=sum(1 for _ in _tar(path, skip=True)), read=_tar)
        if kind == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [one.filename for one in archive.infolist() if _is_image(one.filename)]
            return ImageFile(path=path, samples=len(names), read=_zip)
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} cannot be read as {kind}: {error}") from error
    if kind not in SUFFIXES:
        raise InputError(f"{path} is not a {_kinds()} file; --preprocess works with images only")
    return ImageFile(path=path, samples=1, read=_file)


def _file(path: Path) -> Iterator[_Named]:
    try:
        yield str(path), path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _tar(path: Path, *, skip: bool = False) -> Iterator[_Named]:
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            if entry.isreg() and _is_image(entry.name):
                stream = None if skip else archive.extractfile(entry)
                yield entry.name, b"" if stream is None else stream.read()


def _zip(path: Path) -> Iterator[_Named]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if _is_image(entry.filename):
                yield entry.filename, archive.read(entry)


def _is_image(name: str) -> bool:
    """Return whether a member is an image: by suffix, as the server does, and not hidden."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SUFFIXES and not hidden


def _kinds() -> str:
    *others, last = sorted(SUFFIXES | _ARCHIVES)
    return f"{', '.join(others)} or {last}"
