"""Every test starts from the same environment and the same property-test profile."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Fixed and bounded: the suite gives the same verdict on every machine.
settings.register_profile(
    "suite",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# A shell starts what runs in the background with SIGINT ignored, and so would be all that the tests
# start; those that press Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them."""
    for name in os.environ:
        if name.startswith("BNRECAL_"):
            monkeypatch.delenv(name)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name no test by bytes.

    An archive's bytes hold the time at which it was made: two workers that collect at different
    times would not know each other's tests, and none would run.
    """
    del config
    return argname if isinstance(val, bytes | bytearray) else None
