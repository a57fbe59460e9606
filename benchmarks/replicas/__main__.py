"""Measure the small batches that become durable per second over two API replicas.

    python -m benchmarks.replicas [--seconds 10] [--only shared]

It starts PostgreSQL and a Ceph cluster with an S3 gateway on this machine, then two servers that
share them, and for comparison one server with SQLite and a folder. Client processes PUT batches of
20 kB under their indices and repeat some of them. Writes benchmarks/results/replicas.json and the
table of docs/ingest.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import machine
from benchmarks.ingest.clients import open_recalibration
from benchmarks.ingest.content import SMALL
from benchmarks.replicas.sender import STRIDE
from benchmarks.replicas.table import write_table
from tests.support.postgres import running_cluster
from tests.support.s3 import running_ceph
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "replicas.json"
PAGE = ROOT / "docs" / "ingest.md"

EMBEDDED, SHARED = "embedded", "shared"
REPLICAS = 2
SENDERS = 2
# Recalibrations, and connections of all senders.
_LOADS = {SHARED: ((1, 16), (1, 64), (4, 64)), EMBEDDED: ((1, 16), (1, 64))}
_WARM_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Running servers.

    Attributes:
        urls: the URLs of the servers.
        processes: the first process of each part, by the name of the part.
    """

    urls: Sequence[str]
    processes: Mapping[str, Sequence[psutil.Process]]

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of each part, with that of its children."""
        return {part: sum(map(_cpu_seconds, found)) for part, found in self.processes.items()}


def main() -> None:
    """Measure, print and write the results."""
    options = _options()
    results: dict[str, Any] = {"about": _about(options), "loads": []}
    with tempfile.TemporaryDirectory(prefix="bnrecal-replicas-", dir=options.folder) as folder:
        for name, start in ((EMBEDDED, _embedded), (SHARED, _shared)):
            if options.only in {None, name}:
                with start(Path(folder) / name) as deployment:
                    results["loads"] += _measure(name, deployment, options.seconds)
    if options.only is None:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_table(PAGE, results)


@contextmanager
def _embedded(folder: Path) -> Iterator[Deployment]:
    folder.mkdir()
    with ServerProcess(folder / "data") as server:
        yield Deployment(urls=[server.url], processes={"servers": [psutil.Process(server.pid)]})


@contextmanager
def _shared(folder: Path) -> Iterator[Deployment]:
    folder.mkdir()
    with ExitStack() as stack:
        postgres = stack.enter_context(running_cluster())
        ceph = stack.enter_context(running_ceph())
        settings = {
            "ledger": postgres.create(),
            "blobs": f"s3://{ceph.bucket()}/prefix",
            "max_concurrent_runs": 0,
        }
        servers = [
            stack.enter_context(
                ServerProcess(
                    folder / f"replica{number}", settings=settings, environment=ceph.environment
                )
            )
            for number in range(REPLICAS)
        ]
        yield Deployment(
            urls=[one.url for one in servers],
            processes={
                "servers": [psutil.Process(one.pid) for one in servers],
                "postgres": [postgres.process()],
                "s3": ceph.processes(),
            },
        )


def _measure(name: str, deployment: Deployment, seconds: float) -> list[dict[str, Any]]:
    found = []
    _load(deployment, 1, SENDERS, _WARM_UP_SECONDS)
    for recalibrations, connections in _LOADS[name]:
        one = {
            "deployment": name,
            "servers": len(deployment.urls),
            **_load(deployment, recalibrations, connections, seconds),
        }
        print(json.dumps(one), flush=True)
        found.append(one)
    return found


def _load(
    deployment: Deployment, recalibrations: int, connections: int, seconds: float
) -> dict[str, Any]:
    """Send to new recalibrations for `seconds`; return rates, latencies and processor times."""
    urls = deployment.urls
    names = [open_recalibration(urls[0]) for _ in range(recalibrations)]
    senders = max(SENDERS, recalibrations)
    each = connections // senders
    processes = [
        _begin(names[n % recalibrations], n * each * STRIDE, SMALL, seconds, each, *urls)
        for n in range(senders)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    before = deployment.cpu_seconds() | {"senders": _cpu_of_children()}
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in processes]
    after = deployment.cpu_seconds() | {"senders": _cpu_of_children()}
    _check(urls[0], names, sum(len(one["taken"]) for one in answers))
    taken = np.array([one for answer in answers for one in answer["taken"]])
    wall = max(answer["seconds"] for answer in answers)
    return {
        "recalibrations": recalibrations,
        "connections": each * senders,
        "batches": len(taken),
        "per_s": len(taken) / wall,
        "p50_ms": float(np.percentile(taken, 50) * 1000),
        "p99_ms": float(np.percentile(taken, 99) * 1000),
        "cpu_ms": {part: 1000 * (after[part] - before[part]) / len(taken) for part in after},
    }


def _check(url: str, names: Sequence[str], acknowledged: int) -> None:
    """Check that the ledger counts each acknowledged batch once, then delete the recalibrations."""
    with httpx.Client(base_url=url, timeout=300) as http:
        stored = 0
        for name in names:
            path = f"/v1/recalibrations/{name}"
            stored += http.get(path).raise_for_status().json()["batches"]["received"]
            http.delete(path).raise_for_status()
    if stored != acknowledged:
        raise SystemExit(f"{acknowledged} batches were acknowledged, {stored} are stored")


def _begin(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.replicas.sender", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process, of its children, and of those that have ended."""
    found = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        found += times.user + times.system + times.children_user + times.children_system
    return found


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **machine.about(),
        "seconds": options.seconds,
        "note": options.note,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each load")
    parser.add_argument("--only", choices=(EMBEDDED, SHARED), help="write no results")
    parser.add_argument("--folder", type=Path, default=None, help="folder on the measured disk")
    parser.add_argument("--note", default="", help="note on the machine, for the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
