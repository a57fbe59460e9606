"""Importing a stream: the server reads its batches from object storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NoReturn

import msgspec

from bnrecal_client._http import requests
from bnrecal_client._http.messages import Request, Response, TransportFailed, expect
from bnrecal_client._http.requests import StreamName
from bnrecal_client._http.retry import FailedTry, pause_before_retry
from bnrecal_client._http.session import PHASES, Session
from bnrecal_client.errors import (
    ImportFailed,
    OptionError,
    ServerUnreachable,
    UnexpectedResponseError,
)
from bnrecal_client.models import Import, ImportedObject, Progress

__all__ = [
    "ImportLines",
    "ObjectUrls",
    "as_urls",
    "complete",
    "import_objects",
    "require_none",
    "urls_of",
]

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


async def import_objects(
    session: Session,
    recalibration_id: str,
    urls: ObjectUrls,
    *,
    stream: StreamName = "batches",
    first: int = 0,
    compare: bool = False,
) -> Import:
    """Have the server import objects.

    The request is sent again, which continues it, while the connection breaks or the server reports
    retryable errors; the time of the retry policy begins anew with each stored batch.

    Raises:
        ServerUnreachable: no batch was stored within the time of the policy.
    """
    objects, remaining = list[ImportedObject](), 0
    for start in range(0, len(urls.urls), _MAX_URLS):
        part = urls.urls[start : start + _MAX_URLS]
        if remaining:  # what ended the last request would end this one
            remaining += len(part)
            continue
        request = requests.import_objects(
            recalibration_id, part, first=first + len(objects), compare=compare, stream=stream
        )
        found = await _import(session, request, PHASES[stream], len(objects))
        objects += found.objects
        remaining = found.remaining
    return Import(objects=tuple(objects), remaining=remaining)


async def _import(session: Session, request: Request, phase: str, before: int) -> Import:
    """Send one request for an import until it is complete or fails permanently."""
    lines = ImportLines(lambda done: session.callback(Progress(phase=phase, done=before + done)))

    async def send(request: Request) -> Response:
        lines.remaining = None
        response = await session.transport.stream(request, lines.add)
        if response.status == HTTPStatus.OK:
            lines.require_end()
        return response

    started, tries = session.clock(), 0
    while True:
        stored = len(lines.stored)
        try:
            expect(await session.exchange(request, send=send), 200)
        except ServerUnreachable:
            if len(lines.stored) == stored:
                raise
            continue
        if len(lines.stored) > stored:
            started, tries = session.clock(), 0
        tries += 1
        found = lines.result()
        reason = _retryable(found)
        if reason is None:
            return found
        pause = pause_before_retry(
            session.retry,
            FailedTry(reason=reason),
            tries=tries,
            elapsed_s=session.clock() - started,
            server_seen=True,
        )
        if pause is None:
            return found
        session.callback(Progress(phase="waiting", done=tries - 1, note=reason))
        await session.runtime.sleep(pause)


def _retryable(found: Import) -> str | None:
    """Return why an import should be sent again; None if it is complete or would fail again."""
    errors = [one.error for one in found.failed]
    for error in errors:
        if error is None or error.problem is None or not error.problem.retryable:
            return None
    if errors:
        return str(errors[0])
    return "the server is shutting down" if found.remaining else None


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
