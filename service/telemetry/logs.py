"""Logs as JSON lines on standard error: a sentence, a stable action and ids.

The id of a request appears in its response and in each of its log lines.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from service.clock import to_text

ID_HEADER = "X-Request-Id"
# What a proxy or a client may choose: the id is copied into headers, URNs and logs.
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current request; None outside of requests."""


def choose_request_id(sent: str | None) -> str:
    """Return the id that the client sent if it is valid, otherwise a new one."""
    return sent if sent is not None and _VALID.fullmatch(sent) else str(uuid.uuid4())


# `color_message` is uvicorn's copy of the message for terminals.
_OMITTED = {"message", "asctime", "taskName", "color_message"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _OMITTED


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; each key of `extra` becomes a member.

    `request_id` names the request in whose context the record was logged.
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
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send all log records of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
