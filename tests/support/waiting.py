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
        condition: evaluated repeatedly.
        describe: returns the message of a timeout.
        seconds: the timeout; long enough for a busy machine.
        pause: seconds between evaluations.

    Raises:
        AssertionError: the condition did not hold in time.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:g} s: {describe()}")
        time.sleep(pause)
    return found
