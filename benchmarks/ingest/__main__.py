"""Measure how fast batches become durable, compared with the limits of the machine.

    python -m benchmarks.ingest [--seconds 10] [--images 64] [--repeats 3] [--no-whole]

Each client is a separate process. Writes benchmarks/results/ingest.json and the tables of
docs/ingest.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.ingest import clients, limits, whole
from benchmarks.ingest.content import LARGE, SMALL
from benchmarks.ingest.table import write_tables
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "ingest.json"
PAGE = ROOT / "docs" / "ingest.md"

# Number of clients, connections per client, bytes per batch.
_STREAMS = ((1, 1, LARGE), (1, 4, LARGE), (4, 1, LARGE), (1, 1, SMALL), (4, 1, SMALL))
_LIMIT_SECONDS = 2.0


def main() -> None:
    """Measure, print and write the results."""
    options = _options()
    results: dict[str, Any] = {"about": _about(options)}
    with tempfile.TemporaryDirectory(prefix="bnrecal-ingest-", dir=options.folder) as folder:
        results["limits"] = limits.measure(
            Path(folder) / "limits", large=LARGE, small=SMALL, seconds=_LIMIT_SECONDS
        )
        print(json.dumps(results["limits"], indent=1), flush=True)
        results["streams"] = _streams(Path(folder), options.seconds)
    if not options.no_whole:
        results["whole"] = whole.measure(
            images=options.images, repeats=options.repeats, threads=os.cpu_count() or 1
        )
        print(json.dumps(results["whole"], indent=1), flush=True)
    options.results.parent.mkdir(exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    if options.results == RESULTS:
        write_tables(PAGE, results)


def _streams(folder: Path, seconds: float) -> list[dict[str, Any]]:
    found = []
    with ServerProcess(folder / "data") as server:
        for number, connections, size in _STREAMS:
            one = clients.stream(
                server.url,
                server.pid,
                clients=number,
                connections=connections,
                size=size,
                seconds=seconds,
            )
            print(json.dumps(one), flush=True)
            found.append(one)
    return found


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **machine.about(),
        "seconds": options.seconds,
        "note": options.note,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each stream")
    parser.add_argument("--images", type=int, default=64, help="images per recalibration")
    parser.add_argument("--repeats", type=int, default=3, help="recalibrations per kind")
    parser.add_argument("--no-whole", action="store_true", help="skip the recalibrations")
    parser.add_argument("--folder", type=Path, default=None, help="folder on the measured disk")
    parser.add_argument("--note", default="", help="note on the machine, for the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
