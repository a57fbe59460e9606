"""An inference request on its way from the wire into the form in which a batch is stored.

Binary tensors are passed on as they come, never collected: their bytes are what safetensors wants.
Images become a tar archive as they come.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from service.errors import BatchMalformedError, RequestInvalidError, TooLargeError
from service.openinference.image_tar import ImageTar
from service.openinference.request import InferRequest, parse, safetensors_header
from service.web import content_digest as digests
from service.web.request_body import BLOCK_BYTES

Parts = AsyncGenerator[bytes | bytearray, None]
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A request whose JSON part has arrived; `batch` yields the bytes of a batch in `format`."""

    request: InferRequest
    format: str
    batch: AsyncIterator[bytearray]


def read_header_length(value: str | None) -> int | None:
    """Return the length of the JSON part; None when it is the whole body.

    Raises:
        RequestInvalidError: the header is no length.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):  # noqa: PLR2004 - 64 bits
        raise RequestInvalidError(f"{HEADER_LENGTH} is the number of bytes of the JSON")
    return int(value)


async def read(
    blocks: AsyncIterator[bytearray],
    header_length: int | None,
    *,
    image_input: str | None,
    json_limit_bytes: int,
    batch_limit_bytes: int,
    parsing: asyncio.Lock,
    digest: str | None,
) -> Incoming:
    """Read the JSON part of a body.

    Args:
        blocks: the body.
        header_length: length of the JSON part; None when it is the whole.
        image_input: the input that images feed; None where the recalibration takes arrays only.
        json_limit_bytes: most bytes of the JSON part.
        batch_limit_bytes: most bytes of an archive of images.
        parsing: held while the JSON is parsed, so that many large requests do not add up.
        digest: SHA-256 of the whole body that the client announced.

    Raises:
        TooLargeError, RequestInvalidError, BatchMalformedError, PreprocessMissingError,
        BatchInputError: as `parse`; or the JSON part is too long, or longer than the body; or the
            images make too large a batch.
    """
    if header_length is not None and header_length > json_limit_bytes:
        raise _too_large(json_limit_bytes)
    text = bytearray()
    rest = bytearray()
    hashed = _Hashed(blocks, digest)
    async for block in hashed:
        text += block
        if header_length is not None and len(text) >= header_length:
            rest = text[header_length:]
            del text[header_length:]
            break
        if len(text) > json_limit_bytes:
            raise _too_large(json_limit_bytes)
    if header_length is not None and len(text) < header_length:
        raise RequestInvalidError(f"{HEADER_LENGTH} is longer than the body")
    async with parsing:
        request = await asyncio.to_thread(parse, text, image_input=image_input)
    if request.binary_length and header_length is None:
        raise RequestInvalidError(f"binary data needs the header {HEADER_LENGTH}")
    parts = _in_order(request, rest, hashed)
    if (images := request.images) is None:
        return Incoming(request=request, format="safetensors", batch=_batch(request, parts))
    archive = ImageTar(images.name, images.shape[0], images.length, limit_bytes=batch_limit_bytes)
    return Incoming(request=request, format="tar", batch=_archive(archive, parts))


class _Hashed:
    """Passes blocks on; at the end compares their digest with the announced one."""

    def __init__(self, blocks: AsyncIterator[bytearray], announced: str | None) -> None:
        self._blocks = blocks
        self._announced = announced
        self._digest = hashlib.sha256()

    def __aiter__(self) -> AsyncIterator[bytearray]:
        return self

    async def __anext__(self) -> bytearray:
        try:
            block = await anext(self._blocks)
        except StopAsyncIteration:
            if self._announced is not None:
                digests.verify(self._announced, self._digest.hexdigest())
            raise
        if self._announced is not None:
            await asyncio.to_thread(self._digest.update, block)
        return block


async def _batch(request: InferRequest, parts: Parts) -> AsyncIterator[bytearray]:
    """Yield a safetensors file in blocks; the last is held back until the body has ended."""
    held = bytearray(safetensors_header(request))
    async with aclosing(parts):
        async for part in parts:
            if len(held) >= BLOCK_BYTES:
                yield held
                held = bytearray()
            held += part
    yield held


async def _archive(archive: ImageTar, parts: Parts) -> AsyncIterator[bytearray]:
    """Yield a tar archive in blocks; the last is held back until the body has ended.

    Many small images are many headers: they are made in a thread.
    """
    async with aclosing(parts):
        async for part in parts:
            filled = archive.feed(part)
            while (block := await asyncio.to_thread(next, filled, None)) is not None:
                yield block
    yield archive.finish()


async def _in_order(
    request: InferRequest, rest: bytearray, blocks: AsyncIterator[bytearray]
) -> Parts:
    """Yield the tensors' bytes in their order, from the JSON and from the wire."""
    for tensor in request.tensors:
        if tensor.data is not None:
            yield tensor.data
            continue
        missing = tensor.length
        while missing:
            if not rest:
                rest = await _next(blocks, tensor.name)
            part, rest = rest[:missing], rest[missing:]
            missing -= len(part)
            yield part
    while not rest:
        try:
            rest = await anext(blocks)
        except StopAsyncIteration:
            return
    raise BatchMalformedError("the body goes on after the data of its inputs")


async def _next(blocks: AsyncIterator[bytearray], name: str) -> bytearray:
    async for block in blocks:
        if block:
            return block
    raise BatchMalformedError(f"the body ends inside the data of input {name!r}", input=name)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"the JSON is larger than {limit} bytes: send the tensors as binary data", limit=limit
    )
