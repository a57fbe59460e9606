"""A multipart form, taken apart as it arrives: files go to drafts, never into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MediaTypeError, RequestInvalidError, TooLargeError
from service.settings import Settings
from service.storage.blobs.protocol import Draft

MODEL, DATA, OPTIONS = "model", "data", "options"
MEDIA_TYPE = "multipart/form-data"
OPTIONS_LIMIT_BYTES = 1 << 20
MOST_FILES = 10_000
_SHOWN = 50


@dataclass(kw_only=True, slots=True)
class File:
    """One part that is a file.

    Attributes:
        name: file name as the client gave it; only its end is looked at.
        media_type: as the client gave it, without parameters; empty when it gave none.
        draft: holds the bytes.
        size: bytes so far.
    """

    name: str
    media_type: str
    draft: Draft
    size: int = 0


@dataclass(kw_only=True, slots=True)
class _Headers:
    """A part's headers while they arrive."""

    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    found: dict[str, str] = field(default_factory=dict)


class FormReader:
    """Takes the body in pieces; blocks, because it writes.

    Attributes:
        model: the part `model`, once it has begun.
        data: the parts `data`, in their order.
        options: the part `options`.
        complete: whether the form has ended.
    """

    def __init__(self, content_type: str, settings: Settings, draft: Callable[[], Draft]) -> None:
        """Begin a form.

        Args:
            content_type: the request's, with its boundary.
            settings: limits of models and batches.
            draft: begins a file.

        Raises:
            MediaTypeError: it is no form.
        """
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary", b"")
        if kind != MEDIA_TYPE.encode() or not boundary:
            raise MediaTypeError(
                f"a form ({MEDIA_TYPE} with a boundary) is due, as `curl -F model=@model.onnx "
                "-F data=@data.npy` sends it"
            )
        self.model: File | None = None
        self.data: list[File] = []
        self.options = bytearray()
        self.complete = False
        self._limits = {MODEL: settings.model_limit_bytes, DATA: settings.batch_limit_bytes}
        self._draft = draft
        self._headers = _Headers()
        self._part = ""
        self._seen: set[str] = set()
        try:
            self._parser = MultipartParser(boundary, self._callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise MediaTypeError("the form's boundary is too long") from error

    def feed(self, block: bytearray) -> None:
        """Take the next bytes.

        Raises:
            RequestInvalidError: it is no such form, or has other parts.
            TooLargeError: a part is over its limit.
            CapacityError: it could not be stored.
        """
        try:
            self._parser.write(bytes(block))
        except FormParserError as error:
            raise RequestInvalidError(f"the form is broken: {error}") from error

    def finish(self) -> File:
        """Tell that the body is over; return the model.

        Raises:
            RequestInvalidError: the form has not ended, or lacks a part.
        """
        if not self.complete:
            raise RequestInvalidError("the form ends without its closing boundary")
        if self.model is None or not self.data:
            raise RequestInvalidError("the form needs one part `model` and at least one `data`")
        return self.model

    def discard(self) -> None:
        """Throw the files away."""
        for file in [*self.data, *([self.model] if self.model else [])]:
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
        # The parser of parameters writes what it has read as Latin-1 again.
        headers.found[name] = headers.value.decode("latin-1")
        headers.name.clear()
        headers.value.clear()

    def _open(self) -> None:
        """Begin a part whose headers are whole."""
        _, parameters = parse_options_header(self._headers.found.get("content-disposition"))
        self._part = parameters.get(b"name", b"").decode("utf-8", "replace")
        if self._part in {MODEL, OPTIONS} and self._part in self._seen:
            raise RequestInvalidError(f"the form has the part `{self._part}` twice")
        self._seen.add(self._part)
        if self._part == OPTIONS:
            return
        if self._part not in self._limits:
            raise RequestInvalidError(
                f"the form has a part {self._part[:_SHOWN]!r}; there are model, data and options"
            )
        if len(self.data) == MOST_FILES:
            raise TooLargeError(f"a form takes at most {MOST_FILES} files", limit=MOST_FILES)
        self._keep(parameters.get(b"filename", b"").decode("utf-8", "replace"))

    def _keep(self, name: str) -> None:
        kind = self._headers.found.get("content-type", "").partition(";")[0].strip().lower()
        file = File(name=name, media_type=kind, draft=self._draft())
        if self._part == MODEL:
            self.model = file
        else:
            self.data.append(file)

    def _take(self, data: bytes) -> None:
        if self._part == OPTIONS:
            self.options += data
            if len(self.options) > OPTIONS_LIMIT_BYTES:
                limit = OPTIONS_LIMIT_BYTES
                raise TooLargeError(f"the options are larger than {limit} bytes", limit=limit)
            return
        file = self.model if self._part == MODEL else self.data[-1]
        assert file is not None  # `_open` has made it
        file.size += len(data)
        limit = self._limits[self._part]
        if file.size > limit:
            raise TooLargeError(f"the {self._part} is larger than {limit} bytes", limit=limit)
        file.draft.write(data)

    def _end(self) -> None:
        self.complete = True
