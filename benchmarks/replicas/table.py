"""Write the measured table of docs/ingest.md between its markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.results import replace_marked

__all__ = ["write_table"]

_NAMES = {
    "embedded": "one server, SQLite and folder",
    "shared": "two replicas, PostgreSQL and S3",
}
_PARTS = {"servers": "servers", "postgres": "PostgreSQL", "s3": "S3", "senders": "clients"}


def write_table(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the text between the markers."""
    replace_marked("replicas", path, f"{_about(results['about'])}\n\n{_loads(results)}")


def _about(about: Mapping[str, Any]) -> str:
    note = f" {about['note']}" if about["note"] else ""
    return (
        f"{about['date']}, {about['cpu']}, {about['cores']} cores, shared by clients, servers, "
        f"PostgreSQL and Ceph; load average {about['load']:.1f} at the start. "
        f"{about['seconds']:g} s per load.{note}"
    )


def _loads(results: Mapping[str, Any]) -> str:
    head = (
        *("deployment", "recalibrations", "connections", "batches/s", "median ms", "p99 ms"),
        f"CPU ms per batch: {', '.join(_PARTS.values())}",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in results["loads"]:
        cells = (
            _NAMES[one["deployment"]],
            one["recalibrations"],
            one["connections"],
            f"{one['per_s']:.0f}",
            f"{one['p50_ms']:.1f}",
            f"{one['p99_ms']:.1f}",
            ", ".join(
                f"{one['cpu_ms'][part]:.2f}" if part in one["cpu_ms"] else "–" for part in _PARTS
            ),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
