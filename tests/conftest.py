"""Give every test the same environment and the same Hypothesis profile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.s3 import ObjectServer, object_server

# Deterministic and bounded: the suite has the same outcome on every machine.
settings.register_profile(
    "suite",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# pytest-xdist runs one process per core already. With a second thread, torch's waits for it take
# most of the time of small networks on a busy machine. Set before torch is imported; servers and
# workers inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with SIGINT ignored, and child processes inherit that; tests that
# send Ctrl-C would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the user who runs the tests."""
    for name in os.environ:
        if name.startswith("BNRECAL_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def _operator_table_of_the_exporter_is_built_once() -> None:
    """Build torch's table of ONNX translations once per process instead of once per export.

    Building it parses the source of 500 functions, a third of the time of exporting a small
    network. Each export gets a copy, since it may register operators of its own.
    """
    if "torch" not in sys.modules:
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    build = cache(ONNXRegistry.from_torchlib)

    def copied(_cls: type[ONNXRegistry], *options: Any, **named: Any) -> ONNXRegistry:
        built = build(*options, **named)
        registry = ONNXRegistry()
        vars(registry).update(vars(built))
        registry.functions = {key: list(found) for key, found in built.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = classmethod(copied)  # type: ignore[method-assign, assignment]


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectServer]:
    """Run an S3 server, to which the environment leads."""
    with object_server() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Exclude bytes from test ids.

    Archives contain their creation time: two xdist workers that collect at different times would
    have different test ids, and no test would run.
    """
    del config
    return argname if isinstance(val, bytes | bytearray) else None
