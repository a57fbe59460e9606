"""Write the measured tables of docs/ingest.md between their markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_tables"]

_START, _END = "<!-- ingest: measured -->", "<!-- ingest: end -->"
_LIMITS = {
    "disk_1_mb_per_s": "write and fsync large files, one thread, MB/s",
    "disk_4_mb_per_s": "write and fsync large files, four threads, MB/s",
    "disk_1_small_files_per_s": "write and fsync small files, one thread, files/s",
    "disk_4_small_files_per_s": "write and fsync small files, four threads, files/s",
    "sha256_mb_per_s": "SHA-256 on one core, MB/s",
    "loopback_mb_per_s": "one TCP connection on loopback, MB/s",
}


def write_tables(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the text between the markers."""
    before, _, rest = path.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    parts = [_about(results["about"]), _streams(results), _limits(results["limits"])]
    if "whole" in results:
        parts.append(_whole(results["whole"]))
    path.write_text(f"{before}{_START}\n\n" + "\n\n".join(parts) + f"\n\n{_END}{after}")


def _about(about: Mapping[str, Any]) -> str:
    note = f" {about['note']}" if about["note"] else ""
    return (
        f"{about['date']}, {about['cpu']}, {about['cores']} cores, shared by clients and "
        f"server; load average {about['load']:.1f} at the start. {about['seconds']:g} s per "
        f"stream.{note}"
    )


def _streams(results: Mapping[str, Any]) -> str:
    limit = results["limits"]["sha256_mb_per_s"]
    head = (
        "batch",
        "clients",
        "connections per client",
        "MB/s",
        "of one core of SHA-256",
        "batches/s",
        "median ms",
        "p99 ms",
        "server CPU ms per batch",
        "server memory MB",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in results["streams"]:
        cells = (
            f"{one['bytes'] / 1000:.0f} kB",
            one["clients"],
            one["connections"],
            f"{one['mb_per_s']:.0f}",
            f"{one['mb_per_s'] / limit:.2f}",
            f"{one['per_s']:.0f}",
            f"{one['p50_ms']:.1f}",
            f"{one['p99_ms']:.1f}",
            f"{1000 * one['server_cpu_cores'] / one['per_s']:.1f}",
            f"{one['server_rss_mb']:.0f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _limits(found: Mapping[str, float]) -> str:
    lines = ["| limit of the machine, in the same run | |", "|---|---|"]
    lines += [f"| {words} | {found[name]:.0f} |" for name, words in _LIMITS.items()]
    return "\n".join(lines)


def _whole(found: Mapping[str, Any]) -> str:
    def listed(way: str) -> str:
        return ", ".join(f"{one:.1f}" for one in found["seconds"][way])

    return (
        f"`bn_ops.adapt` and `Client.recalibrate` of {found['network']} with {found['images']} "
        f"images, {found['threads']} threads, alternating: {listed('in_process')} s in-process, "
        f"{listed('http')} s over HTTP; ratio of the medians {found['ratio']:.2f}."
    )
