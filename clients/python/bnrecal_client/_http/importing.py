"""Importing a stream: the server reads its batches from object storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from bnrecal_client._http.messages import TransportFailed
from bnrecal_client.errors import ImportFailed, OptionError, UnexpectedResponseError
from bnrecal_client.models import Import, ImportedObject

__all__ = ["ImportLines", "ObjectUrls", "as_urls", "complete", "joined", "require_none", "urls_of"]

# URLs that a server takes in one request; each may stand for many objects.
_MAX_URLS = 400
# Objects that a message names.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ObjectUrls:
    """A stream that the server reads; `BatchSource` is one that this process reads.

    Attributes:
        urls: the URLs, in stream order.
    """

    urls: tuple[str, ...]
    labeled: tuple[()] = ()

    def parts(self) -> Iterator[tuple[str, ...]]:
        """Yield the URLs in as many parts as requests are needed."""
        for start in range(0, len(self.urls), _MAX_URLS):
            yield self.urls[start : start + _MAX_URLS]

    async def peek(self) -> NoReturn:
        """Reject a module, which is exported with the first batch.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            "a module is exported with the first batch, which only the server reads: pass an ONNX "
            "model (bn_ops.export makes one)"
        )


def urls_of(batches: object) -> ObjectUrls | None:
    """Return the URLs that are passed in place of batches; None for batches."""
    found = (batches,) if isinstance(batches, str) else batches
    if not isinstance(found, list | tuple) or not found:
        return None
    if not all(isinstance(one, str) and "://" in one for one in found):
        return None
    return ObjectUrls(tuple(found))


class _Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of a response."""

    remaining: int


@dataclass(slots=True)
class ImportLines:
    """The lines of the responses to the same request.

    Attributes:
        notify: called with the number of stored batches.
        objects: by index; what the last line says about each.
        stored: indices of stored batches.
        remaining: objects that the last response did not try; None before its last line.
    """

    notify: Callable[[int], None]
    objects: dict[int, ImportedObject] = field(default_factory=dict)
    stored: set[int] = field(default_factory=set)
    remaining: int | None = None

    def add(self, line: str) -> None:
        """Take a line into account.

        Raises:
            UnexpectedResponseError: it is not one of an import.
        """
        try:
            value: Any = msgspec.json.decode(line)
            if "url" not in value:
                self.remaining = msgspec.convert(value, _Summary).remaining
                return
            one = msgspec.convert(value, ImportedObject)
        except (msgspec.MsgspecError, TypeError) as error:
            raise UnexpectedResponseError(f"the response to an import has {line!r:.200}") from error
        known = self.objects.get(one.index)
        if known is None or one.status != "present" or known.status == "failed":
            self.objects[one.index] = one
        if one.status != "failed":
            self.stored.add(one.index)
            self.notify(len(self.stored))

    def require_end(self) -> None:
        """Check that a response was complete.

        Raises:
            TransportFailed: its last line is missing.
        """
        if self.remaining is None:
            raise TransportFailed("the response to an import was cut off")

    def result(self) -> Import:
        """Return what became of the objects, in stream order."""
        objects = tuple(self.objects[index] for index in sorted(self.objects))
        return Import(objects=objects, remaining=self.remaining or 0)


def joined(left: Import, right: Import) -> Import:
    """Return an import and its continuation as one."""
    return Import(
        objects=(*left.objects, *right.objects), remaining=left.remaining + right.remaining
    )


def complete(found: Import) -> int:
    """Return the number of objects of an import.

    Raises:
        ImportFailed: an object has no batch.
    """
    failed = found.failed
    if not failed and not found.remaining:
        return len(found.objects)
    listed = "; ".join(f"{one.url}: {one.error}" for one in failed[:_SHOWN])
    rest = f"; {found.remaining:,} were not tried" if found.remaining else ""
    total = len(found.objects) + found.remaining
    raise ImportFailed(
        f"{len(failed):,} of {total:,} objects could not be imported{rest}. {listed}",
        objects=failed,
    ) from (failed[0].error if failed else None)


def require_none(*options: tuple[str, bool]) -> None:
    """Check that no option is set that applies to batches read by this process.

    Args:
        options: the name of each, and whether it is set.

    Raises:
        OptionError: names the first that is.
    """
    for name, is_set in options:
        if is_set:
            raise OptionError(f"{name} applies to batches that are read here, not to URLs")


def as_urls(urls: str | Sequence[str]) -> ObjectUrls:
    """Return URLs.

    Raises:
        OptionError: they are not URLs.
    """
    found = urls_of(urls)
    if found is None:
        raise OptionError(f"urls takes URLs such as s3://bucket/x.npy, got {urls!r}")
    return found
