"""Keep the exporter's own chatter away from the user: its warnings and its log lines."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and every log line, then restore both.

    Both are settings of the process: another thread's warnings in the same seconds go as well.
    """
    # torch's loggers carry levels and handlers of their own, so only `disable` reaches them all.
    level_before = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            yield
    finally:
        logging.disable(level_before)
