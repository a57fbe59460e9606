"""Images as one stream of batches: files, folders, tar archives and zip archives."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

from bnrecal_client._encoding.samples import SampleFilter
from bnrecal_client.cli.data.folders import SampleFiles, find, sample_name
from bnrecal_client.errors import InputError
from bnrecal_client.images import SUFFIXES, Images

__all__ = ["ImageSet", "Named", "image_files", "open_images"]

Named = tuple[str, bytes]
"""Name, for messages, and content of an image."""

_ARCHIVES = frozenset({".tar", ".zip"})
_KNOWN = SUFFIXES | _ARCHIVES


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
    read: Callable[[Path], Iterator[Named]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet(SampleFiles):
    """Image files as one stream of batches, read while iterating.

    Attributes:
        images: the files, in order.
    """

    images: tuple[ImageFile, ...]

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self.images)

    def name_of(self, sample: int) -> str:
        """Return the file of an image, and its place in it if there are several."""
        return sample_name(self.images, sample, "image")

    def spread(self, count: int) -> ImageSet:
        """Return at most about `count` images, from files evenly spread over all."""
        files = self.images[:: max(1, len(self.images) // count)]
        samples = min(count, sum(one.samples for one in files))
        return replace(self, images=files, samples=samples)

    def __iter__(self) -> Iterator[Images]:
        if self.bad is not None:
            self.bad.restart()
        images = self.numbered()
        while items := tuple(islice(images, self.batch_size)):
            yield Images(items=tuple(item for _, item in items))

    def numbered(self) -> Iterator[tuple[int, Named]]:
        """Yield the position of each good image, and its name and content."""
        bad, start = self.bad, 0
        for one in self.images:
            wanted = islice(one.read(one.path), max(0, self.samples - start))
            try:
                for place, item in enumerate(wanted, start):
                    if bad is None or bad.accepts(*item):
                        yield place, item
            except InputError as error:
                if bad is None:
                    raise
                bad.skip(str(one.path), error.message)
            start += one.samples


def open_images(
    paths: Sequence[Path],
    *,
    batch_size: int,
    limit: int | None,
    bad: SampleFilter | None = None,
) -> ImageSet:
    """Return the images of some paths; only the directories of archives are read.

    Args:
        paths: files and folders.
        batch_size: images per batch.
        limit: most images to use; None for all.
        bad: leaves images out that cannot be read; None to keep every image.

    Raises:
        InputError: there is no image, or a file is neither an image nor an archive.
    """
    found = find(paths, _KNOWN)
    files = tuple(_image_file(path) for path in found.paths)
    held = sum(one.samples for one in files)
    if not held:
        raise InputError(f"there is no image ({_kinds()}) in {', '.join(map(str, paths))}")
    samples = held if limit is None else min(held, limit)
    return ImageSet(
        images=files, batch_size=batch_size, samples=samples, ignored=found.ignored, bad=bad
    )


def image_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the images of some paths that are files of their own, not in archives."""
    return find(paths, SUFFIXES).paths


def _image_file(path: Path) -> ImageFile:
    if not path.is_file():
        raise InputError(f"there is no data file {path}")
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


def _file(path: Path) -> Iterator[Named]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    yield str(path), content


def _tar(path: Path, *, skip: bool = False) -> Iterator[Named]:
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            if entry.isreg() and _is_image(entry.name):
                stream = None if skip else archive.extractfile(entry)
                yield entry.name, b"" if stream is None else stream.read()


def _zip(path: Path) -> Iterator[Named]:
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
    *others, last = sorted(_KNOWN)
    return f"{', '.join(others)} or {last}"
