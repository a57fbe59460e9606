"""Logs as JSON lines on standard error: a sentence, a stable action and ids."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from service.clock import to_text
from service.telemetry import request_ids

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
        if (request_id := request_ids.current.get()) is not None:
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
