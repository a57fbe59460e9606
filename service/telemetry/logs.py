"""Logs as JSON lines on standard error: a sentence, a stable action, ids."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from service.clock import to_text
from service.telemetry import request_ids

# The last is uvicorn's message once more, for terminals.
_OURS = {"message", "asctime", "taskName", "color_message"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _OURS


class JsonFormatter(logging.Formatter):
    """One JSON object a line; whatever `extra` holds becomes a member.

    The request on whose behalf something is logged is named by `request_id`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
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
    """Send every log of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
