"""An inference request, converted to the form of a stored batch while it arrives.

The bytes of binary tensors are passed on as they arrive and never collected: they are the data of a
safetensors file. Encoded images are stored as they are, each after its length.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from service.errors import BatchMalformedError, RequestInvalidError, TooLargeError
from service.formats.image_sequence import ImageSequenceScan
from service.openinference.request import InferRequest, parse, safetensors_header
from service.web import content_digest as digests
from service.web.request_body import BLOCK_BYTES

Parts = AsyncGenerator[bytes | bytearray, None]
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A request whose JSON part is complete; `batch` yields the bytes of a batch in `format`."""

    request: InferRequest
    format: str
    batch: AsyncIterator[bytearray]


def read_header_length(value: str | None) -> int | None:
    """Return the length of the JSON part; None if it is the whole body.

    Raises:
        RequestInvalidError: the header is not a length.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):  # noqa: PLR2004 - 64 bits
        raise RequestInvalidError(f"{HEADER_LENGTH} must be the number of bytes of the JSON")
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
        header_length: length of the JSON part; None if it is the whole body.
        image_input: name of the input that takes images; None if the recalibration takes only
            arrays.
        json_limit_bytes: largest size of the JSON part.
        batch_limit_bytes: largest size of a batch of images.
        parsing: held while the JSON is parsed, so that the memory of large requests does not add
            up.
        digest: SHA-256 of the whole body that the client announced, or None.

    Raises:
        TooLargeError, RequestInvalidError, BatchMalformedError, PreprocessMissingError,
        BatchInputError: as `parse`; also if the JSON part is too long or longer than the body, or
            the images are larger than a batch may be.
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
    if images.length > batch_limit_bytes:
        raise TooLargeError(
            f"the images are larger than {batch_limit_bytes} bytes: send fewer in a request",
            limit=batch_limit_bytes,
        )
    scan = ImageSequenceScan(images.name, images.shape[0], images.length)
    return Incoming(request=request, format="images", batch=_checked(scan, parts))


class _Hashed:
    """Passes blocks on; compares their digest with the announced one at the end."""

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
    """Yield a safetensors file in blocks."""
    async for block in _blocks(bytearray(safetensors_header(request)), parts):
        yield block


async def _checked(scan: ImageSequenceScan, parts: Parts) -> AsyncIterator[bytearray]:
    """Yield a sequence of images in blocks; its lengths are checked first, in a thread."""

    async def checked() -> Parts:
        async with aclosing(parts):
            async for part in parts:
                await asyncio.to_thread(scan.feed, part)
                yield part
        scan.finish()

    async for block in _blocks(bytearray(), checked()):
        yield block


async def _blocks(held: bytearray, parts: Parts) -> AsyncIterator[bytearray]:
    """Yield bytes in blocks; the last block is held back until the parts have ended."""
    async with aclosing(parts):
        async for part in parts:
            if len(held) >= BLOCK_BYTES:
                yield held
                held = bytearray()
            held += part
    yield held


async def _in_order(
    request: InferRequest, rest: bytearray, blocks: AsyncIterator[bytearray]
) -> Parts:
    """Yield the tensors' bytes in order, from the JSON and from the rest of the body."""
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
    raise BatchMalformedError("the body continues after the data of its inputs")


async def _next(blocks: AsyncIterator[bytearray], name: str) -> bytearray:
    async for block in blocks:
        if block:
            return block
    raise BatchMalformedError(f"the body ends inside the data of input {name!r}", input=name)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"the JSON is larger than {limit} bytes: send the tensors as binary data", limit=limit
    )
