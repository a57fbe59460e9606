"""The incremental check of one batch body.

It is fed chunks of any size, in order, and keeps only the header and one split element. The result
does not depend on how the bytes are split: the header is checked once it is complete, and each
array is searched for NaN and Inf as it passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from bn_ops.core.signature import TensorInfo, check_headers, not_finite
from service.errors import BatchMalformedError
from service.formats.dtypes import all_finite, itemsize
from service.formats.layout import Layout, Segment
from service.formats.registry import FORMATS


class BatchBody:
    """Checks one batch as it arrives; `samples` is known once `finish` has returned."""

    def __init__(
        self, kind: str, inputs: Sequence[TensorInfo], *, batch: int | None, limit_bytes: int
    ) -> None:
        """Start a batch.

        Args:
            kind: name of a format that has a header reader.
            inputs: the model's inputs.
            batch: index of the batch, for messages; None if it is not known yet.
            limit_bytes: largest size of the data; a header that announces more is refused before
                the data arrives.
        """
        header = FORMATS[kind].header
        assert header is not None
        self._kind = kind
        self._inputs = tuple(inputs)
        self._batch = batch
        self._limit_bytes = limit_bytes
        self._header = header(tuple(info.name for info in self._inputs))
        self._scan: SegmentScan | None = None
        self.samples = 0

    def is_quick(self, start: bytes | bytearray) -> bool:
        """Return whether a body that starts like this has a header of a usual size."""
        return self._header.is_quick(start)

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Check the next bytes.

        Raises:
            BatchMalformedError: the bytes are not a file of this format.
            BatchError: the batch does not fit the model, or contains NaN or Inf.
        """
        data = memoryview(chunk).cast("B")
        if self._scan is None:
            layout, used = self._header.feed(data)
            data = data[used:]
            if layout is None:
                return
            self._scan = self._checked(layout)
        self._scan.feed(data)

    def finish(self) -> None:
        """Check that the body is complete.

        Raises:
            BatchMalformedError: it ends too early.
        """
        if self._scan is None:
            raise BatchMalformedError(f"the body ends inside the {self._kind} header")
        self._scan.finish()

    def _checked(self, layout: Layout) -> SegmentScan:
        self.samples = check_headers(self._inputs, layout.headers, batch=self._batch)
        announced = sum(segment.length for segment in layout.segments)
        if announced > self._limit_bytes:
            raise BatchMalformedError(
                f"the header announces {announced} bytes of data, the limit is {self._limit_bytes}"
            )
        return SegmentScan(layout.segments, batch=self._batch)


class SegmentScan:
    """Searches the arrays' bytes for NaN and Inf as they pass."""

    def __init__(self, segments: Sequence[Segment], *, batch: int | None) -> None:
        self._segments = [segment for segment in segments if segment.length]
        self._batch = batch
        self._current = 0
        self._done = 0  # bytes of the current segment that were checked
        self._split = b""  # the first bytes of an element that continues in the next chunk

    def feed(self, data: memoryview) -> None:
        """Check the next bytes of data."""
        while data:
            if self._current == len(self._segments):
                raise BatchMalformedError("the body continues after the end of its data")
            segment = self._segments[self._current]
            part = data[: segment.length - self._done]
            data = data[len(part) :]
            self._pass(segment, part)

    def finish(self) -> None:
        """Check that the data is complete."""
        if self._current < len(self._segments):
            name = self._segments[self._current].name
            raise BatchMalformedError(
                f"the body ends inside the data of input {name!r}", input=name
            )

    def _pass(self, segment: Segment, part: memoryview) -> None:
        self._done += len(part)
        size = itemsize(segment.dtype)
        if self._split:
            missing = size - len(self._split)
            self._split += part[:missing]
            part = part[missing:]
            if len(self._split) < size:
                return
            self._check(segment, memoryview(self._split))
        whole = len(part) - len(part) % size
        self._check(segment, part[:whole])
        self._split = bytes(part[whole:])
        if self._done == segment.length:
            self._current += 1
            self._done = 0

    def _check(self, segment: Segment, data: memoryview) -> None:
        if not all_finite(data, segment.dtype, big_endian=segment.big_endian):
            raise not_finite(segment.name, batch=self._batch)
