"""Keep the exporter's own chatter away from the user: warnings, log lines, dumps of graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, every log line and stderr, then restore all three.

    They are settings of the process: another thread's warnings in the same seconds go as well.
    """
    # torch's loggers carry levels and handlers of their own, so only `disable` reaches them all.
    level_before = logging.root.manager.disable
    try:
        # torch.export prints the graph that it was working on to stderr when it fails.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            yield
    finally:
        logging.disable(level_before)
