"""Logs on standard error: JSON lines with a stable action and ids, or text on a terminal.

The id of a request appears in its response and in each of its log lines.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

from service.clock import to_text

ID_HEADER = "X-Request-Id"
# What a proxy or a client may choose: the id is copied into headers, URNs and logs.
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current request; None outside of requests."""

current_ids: ContextVar[Mapping[str, object]] = ContextVar("ids", default=MappingProxyType({}))
"""Further members of each line: the ids of the current run, and of the current span."""


def choose_request_id(sent: str | None) -> str:
    """Return the id that the client sent if it is valid, otherwise a new one."""
    return sent if sent is not None and _VALID.fullmatch(sent) else str(uuid.uuid4())


# `color_message` is uvicorn's copy of the message for terminals.
_OMITTED = {"message", "asctime", "taskName", "color_message"}
_COLORS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
_FIRST_FAILURE = 400  # the lowest HTTP status of a request that failed
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _OMITTED


def _is_extra(key: str) -> bool:
    """Return whether an attribute of a record comes from `extra`; Ray adds `_ray_…` to each."""
    return key not in _STANDARD and not key.startswith("_")


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; each key of `extra` becomes a member.

    `request_id` names the request in whose context the record was logged; `recalibration`,
    `attempt` and `claim` the run, `trace_id` and `span_id` the span.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, object] = {
            "time": to_text(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := current_request_id.get()) is not None:
            line["request_id"] = request_id
        line |= current_ids.get()
        line |= {key: value for key, value in vars(record).items() if _is_extra(key)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as a line for people: the time of day, the level and the sentence.

    Args:
        color: whether warnings and errors are colored.
    """

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, and the traceback where it has one."""
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = record.levelname.lower()
        if self._color and record.levelno in _COLORS:
            level = f"\x1b[{_COLORS[record.levelno]}m{level}\x1b[0m"
        line = f"{when} {level}: {record.getMessage()}"
        about = getattr(record, "recalibration", None)
        if about is not None and str(about) not in line:
            line += f" ({about})"
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


def is_worth_reading(record: logging.LogRecord) -> bool:
    """Return whether a terminal shows a record: successful reads, such as polls, are left out."""
    if getattr(record, "action", "") != "request":
        return True
    is_read = record.getMessage().startswith(("GET ", "HEAD "))
    return not is_read or int(getattr(record, "status", _FIRST_FAILURE)) >= _FIRST_FAILURE


def configure(level: str, style: str = "auto") -> None:
    """Send all log records of this process to standard error.

    Args:
        level: the minimum level.
        style: the setting `log_format`.
    """
    handler = logging.StreamHandler(sys.stderr)
    terminal = sys.stderr.isatty()
    if style == "text" or (style == "auto" and terminal):
        handler.setFormatter(TextFormatter(color=terminal and not os.environ.get("NO_COLOR")))
        handler.addFilter(is_worth_reading)
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
