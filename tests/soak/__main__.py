"""Long-running failure tests: `make soak ARGS='--kills 200'`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.soak import kills, object_faults, openapi, parsers, powercut, replicas, restart
from tests.support import s3
from tests.support.server_process import ServerProcess

# From the start of the process, including the interpreter and imports.
MAX_READY_SECONDS = 2.0


def main() -> int:
    """Run the selected test; return 0 if it passed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    tests = {
        "kills": _kills,
        "objects": _objects,
        "replicas": _replicas,
        "powercut": _power_cuts,
        "fuzz": _fuzz,
        "restart": _restart,
    }
    parser.add_argument("what", nargs="?", choices=tuple(tests), default="kills")
    parser.add_argument("--cuts", type=int, default=50, help="number of power cuts")
    parser.add_argument("--batches", type=int, default=1_000_000, help="batches in the ledger")
    parser.add_argument("--seconds", type=int, default=60, help="fuzzing time per parser")
    parser.add_argument("--kills", type=int, default=200, help="number of SIGKILLs")
    parser.add_argument("--seed", type=int, default=0, help="seed of times and targets")
    parser.add_argument("--length", type=int, default=120, help="batches per stream")
    parser.add_argument("--connections", type=int, default=48, help="senders to two replicas")
    parser.add_argument("--progress", type=int, default=1000, help="batches between two events")
    options = parser.parse_args()
    return tests[options.what](options)


def _kills(options: argparse.Namespace) -> int:
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="bnrecal-soak-") as folder:
        tally = kills.soak(
            Path(folder),
            kills=options.kills,
            seed=options.seed,
            length=options.length,
            log=kills.to_stderr,
        )
    summary = tally.summary() | {"seed": options.seed, "seconds": round(monotonic() - began, 1)}
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0 if tally.passed else 1


def _objects(options: argparse.Namespace) -> int:
    """Disturb a server and its object store in random order, `--kills` times."""
    events = random.Random(options.seed).choices(object_faults.EVENTS, k=options.kills)
    with (
        tempfile.TemporaryDirectory(prefix="bnrecal-objects-") as folder,
        s3.running_ceph() as ceph,
    ):
        tally = object_faults.disturb(Path(folder), ceph, events, seed=options.seed)
    sys.stdout.write(json.dumps(tally.summary() | {"seed": options.seed}, indent=1) + "\n")
    return 0 if tally.passed else 1


def _replicas(options: argparse.Namespace) -> int:
    """Disturb two replicas with PostgreSQL and S3 `--kills` times, then promote the standby."""
    events = random.Random(options.seed).choices(replicas.EVENTS, k=options.kills)
    with (
        tempfile.TemporaryDirectory(prefix="bnrecal-replicas-") as folder,
        s3.running_ceph() as ceph,
        replicas.deployed(Path(folder), ceph) as deployment,
    ):
        tally = replicas.disturb(
            Path(folder),
            deployment,
            [*events, replicas.STANDBY, replicas.REPLICA],
            seed=options.seed,
            length=options.length,
            connections=options.connections,
            progress=options.progress,
        )
    sys.stdout.write(json.dumps(tally.summary() | {"seed": options.seed}, indent=1) + "\n")
    return 0 if tally.passed else 1


def _power_cuts(options: argparse.Namespace) -> int:
    """Cut the power of the server, which must lose nothing, and of one that is not durable."""
    if (reason := powercut.unsupported_reason()) is not None:
        sys.stdout.write(f"SKIPPED: power cuts are not supported on this machine: {reason}\n")
        return 0
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="bnrecal-powercut-") as folder:
        found = {
            module: powercut.cut(
                Path(folder) / module, cuts=options.cuts, seed=options.seed, module=module
            )
            for module in (powercut.DURABLE, powercut.NOT_DURABLE)
        }
    durable, not_durable = found[powercut.DURABLE], found[powercut.NOT_DURABLE]
    summary = {
        "cuts": options.cuts,
        "acknowledged": durable.acknowledged,
        "lost": durable.lost,
        "acknowledged_synchronous_normal": not_durable.acknowledged,
        "lost_synchronous_normal": not_durable.lost,
        "seconds": round(monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0 if durable.lost == 0 and not_durable.lost > 0 else 1


def _restart(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="bnrecal-restart-") as folder:
        found = restart.measure(Path(folder) / "data", options.batches)
    report = {"batches": options.batches, **dataclasses.asdict(found)}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if found.ready < MAX_READY_SECONDS else 1


def _fuzz(options: argparse.Namespace) -> int:
    """Send random requests for the whole OpenAPI document, then random bytes to each parser."""
    faults = []
    with tempfile.TemporaryDirectory(prefix="bnrecal-fuzz-") as folder:
        with ServerProcess(Path(folder) / "data") as server:
            phases = "examples,coverage,fuzzing"
            found = openapi.check(
                server.url, Path(folder), examples=30, phases=phases, seed=options.seed
            )
        if found is not None:
            sys.stdout.write(found)
            faults.append("openapi")
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write(
            "SKIPPED: fuzzing the parsers, because atheris has no wheel for this platform\n"
        )
        return 1 if faults else 0
    for name in parsers.PARSERS:
        command = [sys.executable, "-m", "tests.soak.fuzz_parser", name]
        limit = f"-max_total_time={options.seconds}"
        fuzzed = subprocess.run(
            [*command, limit],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        sys.stdout.write(f"{name}: {'fault' if fuzzed.returncode else 'no fault'}\n")
        if fuzzed.returncode != 0:
            sys.stdout.write(fuzzed.stdout[-10_000:])
            faults.append(name)
    sys.stdout.write(f"faults: {faults or 'none'}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
