"""What the server reports to OpenTelemetry: nothing, unless `otel.py` replaces it."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

__all__ = ["RunTrace", "Telemetry", "is_on", "open_telemetry"]

_log = logging.getLogger(__name__)
_SIGNALS = ("TRACES", "METRICS")


class RunTrace:
    """The trace of a run; this one records nothing."""

    def phase(self, name: str) -> None:
        """Note that a phase has begun, which ends the one before it."""

    def shard_began(self, shard: int, samples: int) -> None:
        """Note that a shard of the run has been started.

        Args:
            shard: its number, which a replacement has too.
            samples: number of samples that it measures.
        """

    def shard_ended(self, shard: int, lost: str | None = None) -> None:
        """Note that a shard has ended; `lost` is why it will be replaced."""

    def ended(self, state: str, verdict: str | None) -> None:
        """Note how the run has ended."""


class Telemetry:
    """Traces and exports nothing."""

    @property
    def middleware(self) -> Callable[[ASGIApp], ASGIApp] | None:
        """The middleware that traces requests; None for none."""
        return None

    @property
    def log_ids(self) -> Mapping[str, object]:
        """The ids of the current span, for log lines."""
        return {}

    def traceparent(self) -> str | None:
        """Return the current span as a W3C `traceparent`; None without one."""
        return None

    @contextmanager
    def run(
        self, recalibration_id: str, traceparent: str | None, ids: Mapping[str, str | int]
    ) -> Iterator[RunTrace]:
        """Trace a run.

        Args:
            recalibration_id: the recalibration.
            traceparent: the span that it continues; None if unknown.
            ids: attributes that identify it.
        """
        del recalibration_id, traceparent, ids
        yield RunTrace()

    async def export_metrics(
        self, registry: CollectorRegistry, refresh: Callable[[], Awaitable[object]]
    ) -> None:
        """Export the metrics until cancelled; return at once where they are not exported.

        Args:
            registry: the metrics.
            refresh: a coroutine function that sets the gauges.
        """

    def close(self) -> None:
        """Export what is left; blocks."""


def is_on(signal: str, environment: Mapping[str, str]) -> bool:
    """Return whether the environment asks for a signal.

    Args:
        signal: `TRACES` or `METRICS`.
        environment: the variables, as OpenTelemetry defines them.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if exporter:
        return exporter != "none"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(environment.get(name, "").strip() for name in endpoints)


def open_telemetry(environment: Mapping[str, str] | None = None) -> Telemetry:
    """Return what the environment asks for; nothing, with a warning, where that cannot be done.

    Args:
        environment: the variables; None for those of the process.
    """
    variables = os.environ if environment is None else environment
    wanted = [signal for signal in _SIGNALS if is_on(signal, variables)]
    if not wanted:
        return Telemetry()
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        return _off("the extra otel is not installed (pip install 'bnrecal[otel]')")
    from service.telemetry.otel import OtelTelemetry, UnsupportedExporterError  # noqa: PLC0415

    try:
        return OtelTelemetry.of(wanted, variables)
    except UnsupportedExporterError as error:
        return _off(str(error))


def _off(reason: str) -> Telemetry:
    _log.warning(
        "OTEL_ variables are set, but nothing is exported: %s",
        reason,
        extra={"action": "telemetry-off"},
    )
    return Telemetry()
