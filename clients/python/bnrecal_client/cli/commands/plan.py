"""`bnrecal plan`: the memory, bytes, time and machines that a recalibration needs."""

from __future__ import annotations

from typing import Any

from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.in_process import plan_file
from bnrecal_client.cli.output import count, print_json, print_lines, size, table

__all__ = ["run"]

_GIB = 1 << 30
_MINUTE, _HOUR = 60.0, 3600.0


def run(args: Arguments) -> None:
    """Measure what a sample costs, and print what the run needs."""
    sample, runs = plan_file(
        args.model,
        samples=round(args.samples),
        shape=args.shape,
        cores=args.cores,
        memory_bytes=round(args.memory * _GIB),
        disk_bytes_per_second=args.disk * 1e9,
        nodes=args.nodes,
    )
    if args.json:
        print_json({"sample": sample, "runs": runs})
    elif not args.quiet:
        print_lines(_lines(sample, runs))


def _lines(sample: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    first = runs[0]
    rows = [
        [
            f"{run['nodes']:,}",
            size(run["memory_bytes"]),
            size(run["spill_bytes"]),
            size(run["message_bytes"]),
            _duration(run["compute_seconds"]),
            _duration(run["spill_seconds"]),
            _duration(run["seconds"]),
        ]
        for run in runs
    ]
    head = ["nodes", "memory each", "files each", "messages", "compute", "files", "time"]
    one = (
        f"one sample: input {size(sample['input_bytes'])}, waiting at the frontier "
        f"{size(sample['waiting_bytes'])}, stored in all {size(sample['stored_bytes'])}, "
        f"{1000 * sample['core_seconds']:.3g} ms of a core "
        f"(measured here; {count(sample['levels'], 'level')})"
    )
    every = (
        f"{first['samples']:,} samples: input {size(first['input_bytes'])}, "
        f"waiting {size(first['waiting_bytes'])}"
    )
    return [
        one,
        every,
        "",
        *table(head, rows, right=frozenset(range(len(head)))).splitlines(),
    ]


def _duration(seconds: float) -> str:
    if seconds >= 2 * _HOUR:
        return f"{seconds / _HOUR:.1f} h"
    if seconds >= 2 * _MINUTE:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds:.1f} s"
