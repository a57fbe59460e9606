"""A multipart form, parsed while it arrives: files are written to drafts, not kept in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MediaTypeError, RequestInvalidError, TooLargeError
from service.settings import Settings
from service.storage.blobs.protocol import Draft

MODEL, DATA, SOURCE, OPTIONS = "model", "data", "source", "options"
MEDIA_TYPE = "multipart/form-data"
OPTIONS_LIMIT_BYTES = 1 << 20
MAX_FILES = 10_000
_SHOWN = 50


@dataclass(kw_only=True, slots=True)
class File:
    """A part that is a file.

    Attributes:
        name: file name that the client sent; only its suffix is used.
        media_type: content type that the client sent, without parameters; may be empty.
        draft: holds the bytes.
        size: number of bytes so far.
    """

    name: str
    media_type: str
    draft: Draft
    size: int = 0


@dataclass(kw_only=True, slots=True)
class _Headers:
    """The headers of a part while they arrive."""

    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    found: dict[str, str] = field(default_factory=dict)


class FormReader:
    """Parses a form in pieces; its methods block because they write files.

    Attributes:
        model: the part `model`, or None before it starts.
        data: the parts `data`, in order.
        source: the parts `source`, in order.
        options: the content of the part `options`.
        complete: whether the closing boundary was parsed.
    """

    def __init__(self, content_type: str, settings: Settings, draft: Callable[[], Draft]) -> None:
        """Start a form.

        Args:
            content_type: Content-Type of the request, with the boundary.
            settings: limits of models and batches.
            draft: creates a draft.

        Raises:
            MediaTypeError: the content type is not that of a form.
        """
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary", b"")
        if kind != MEDIA_TYPE.encode() or not boundary:
            raise MediaTypeError(
                f"send a form ({MEDIA_TYPE} with a boundary), for example with "
                "`curl -F model=@model.onnx -F data=@data.npy`"
            )
        self.model: File | None = None
        self.data: list[File] = []
        self.source: list[File] = []
        self.options = bytearray()
        self.complete = False
        batch = settings.batch_limit_bytes
        self._limits = {MODEL: settings.model_limit_bytes, DATA: batch, SOURCE: batch}
        self._draft = draft
        self._headers = _Headers()
        self._part = ""
        self._started = False
        self._seen: set[str] = set()
        try:
            self._parser = MultipartParser(boundary, self._callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise MediaTypeError("the form's boundary is too long") from error

    def feed(self, block: bytearray) -> None:
        """Parse the next bytes.

        Raises:
            RequestInvalidError: the form is malformed or has unknown parts.
            TooLargeError: a part exceeds its limit.
            CapacityError: a file could not be stored.
        """
        data = bytes(block)
        if not self._started:
            # The parser skips text before the first boundary only if it ends in the same piece.
            data = data.lstrip(b"\r\n")
            if not data:
                return
            if not data.startswith(b"-"):
                raise RequestInvalidError("the form is malformed: text before its first boundary")
            self._started = True
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RequestInvalidError(f"the form is malformed: {error}") from error

    def finish(self) -> File:
        """Check that the form is complete; return the model.

        Raises:
            RequestInvalidError: the form is truncated, or a part is missing.
        """
        if not self.complete:
            raise RequestInvalidError("the form has no closing boundary")
        if self.model is None or not self.data:
            raise RequestInvalidError(
                "the form must have one part `model` and at least one part `data`"
            )
        return self.model

    def discard(self) -> None:
        """Delete the files."""
        for file in [*self.data, *self.source, *([self.model] if self.model else [])]:
            file.draft.discard()

    def _callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add("name", data[start:end]),
            "on_header_value": lambda data, start, end: self._add("value", data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self._take(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers = _Headers()

    def _add(self, what: str, data: bytes) -> None:
        buffer: bytearray = getattr(self._headers, what)
        buffer += data

    def _header(self) -> None:
        headers = self._headers
        name = headers.name.decode("latin-1").strip().lower()
        # `parse_options_header` encodes its argument as Latin-1.
        headers.found[name] = headers.value.decode("latin-1")
        headers.name.clear()
        headers.value.clear()

    def _open(self) -> None:
        """Start a part whose headers are complete."""
        _, parameters = parse_options_header(self._headers.found.get("content-disposition"))
        self._part = parameters.get(b"name", b"").decode("utf-8", "replace")
        if self._part in {MODEL, OPTIONS} and self._part in self._seen:
            raise RequestInvalidError(f"the part `{self._part}` is duplicated")
        self._seen.add(self._part)
        if self._part == OPTIONS:
            return
        if self._part not in self._limits:
            raise RequestInvalidError(
                f"the form has an unknown part {self._part[:_SHOWN]!r}; use model, data, source "
                "and options"
            )
        if len(self.data) + len(self.source) == MAX_FILES:
            raise TooLargeError(f"a form has at most {MAX_FILES} files", limit=MAX_FILES)
        self._keep(parameters.get(b"filename", b"").decode("utf-8", "replace"))

    def _keep(self, name: str) -> None:
        kind = self._headers.found.get("content-type", "").partition(";")[0].strip().lower()
        file = File(name=name, media_type=kind, draft=self._draft())
        if self._part == MODEL:
            self.model = file
        else:
            self._files().append(file)

    def _take(self, data: bytes) -> None:
        if self._part == OPTIONS:
            self.options += data
            if len(self.options) > OPTIONS_LIMIT_BYTES:
                limit = OPTIONS_LIMIT_BYTES
                raise TooLargeError(f"the options are larger than {limit} bytes", limit=limit)
            return
        file = self.model if self._part == MODEL else self._files()[-1]
        assert file is not None  # created by `_open`
        file.size += len(data)
        limit = self._limits[self._part]
        if file.size > limit:
            raise TooLargeError(f"the {self._part} is larger than {limit} bytes", limit=limit)
        file.draft.write(data)

    def _files(self) -> list[File]:
        """Return the files of the stream that the current part belongs to."""
        return self.source if self._part == SOURCE else self.data

    def _end(self) -> None:
        self.complete = True
