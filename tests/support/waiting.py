"""Wait for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    describe: Callable[[], object] = lambda: "the condition does not hold",
    *,
    seconds: float = 60.0,
    pause: float = 0.01,
) -> T:
    """Wait until a condition holds and return its value.

    Args:
        condition: evaluated again and again, with a pause between two evaluations.
        describe: what to report when time runs out.
        seconds: the deadline; long enough for a machine with other work to do.
        pause: seconds between two evaluations.

    Raises:
        AssertionError: the condition did not hold in time.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:g} s: {describe()}")
        time.sleep(pause)
    return found
