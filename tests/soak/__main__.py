"""The long forms of the failure tests: `make soak ARGS='--kills 200'`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.soak import kills, openapi, parsers, powercut, restart
from tests.support.server_process import ServerProcess

# From the start of the process, interpreter and imports included.
READY_SECONDS = 2.0


def main() -> int:
    """Run what was asked for; the exit status says whether all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    ways = {"kills": _kills, "powercut": _power_cuts, "fuzz": _fuzz, "restart": _restart}
    parser.add_argument("what", nargs="?", choices=tuple(ways), default="kills")
    parser.add_argument("--cuts", type=int, default=50, help="power cuts")
    parser.add_argument("--batches", type=int, default=1_000_000, help="in the ledger at a restart")
    parser.add_argument("--seconds", type=int, default=60, help="fuzzing of each parser")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and targets")
    parser.add_argument("--length", type=int, default=120, help="batches in each stream")
    asked = parser.parse_args()
    return ways[asked.what](asked)


def _kills(asked: argparse.Namespace) -> int:
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="bnrecal-soak-") as folder:
        tally = kills.soak(
            Path(folder),
            kills=asked.kills,
            seed=asked.seed,
            length=asked.length,
            log=kills.to_stderr,
        )
    summary = tally.summary() | {"seed": asked.seed, "seconds": round(monotonic() - began, 1)}
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0 if tally.flawless else 1


def _power_cuts(asked: argparse.Namespace) -> int:
    """Cut the power of a right server, which must lose nothing, and of a careless one."""
    if (reason := powercut.unable()) is not None:
        sys.stdout.write(f"SKIPPED: power cuts cannot be made here: {reason}\n")
        return 0
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="bnrecal-powercut-") as folder:
        found = {
            module: powercut.cut(
                Path(folder) / module, cuts=asked.cuts, seed=asked.seed, module=module
            )
            for module in (powercut.RIGHT, powercut.CARELESS)
        }
    right, careless = found[powercut.RIGHT], found[powercut.CARELESS]
    summary = {
        "cuts": asked.cuts,
        "acknowledged": right.acknowledged,
        "lost": right.lost,
        "acknowledged_synchronous_normal": careless.acknowledged,
        "lost_synchronous_normal": careless.lost,
        "seconds": round(monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0 if right.lost == 0 and careless.lost > 0 else 1


def _restart(asked: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="bnrecal-restart-") as folder:
        found = restart.measure(Path(folder) / "data", asked.batches)
    told = {"batches": asked.batches, **dataclasses.asdict(found)}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return 0 if found.ready < READY_SECONDS else 1


def _fuzz(asked: argparse.Namespace) -> int:
    """Send random requests over the whole OpenAPI document, then random bytes to each parser."""
    faults = []
    with tempfile.TemporaryDirectory(prefix="bnrecal-fuzz-") as folder:
        with ServerProcess(Path(folder) / "data") as server:
            phases = "examples,coverage,fuzzing"
            found = openapi.check(server.url, Path(folder), examples=30, phases=phases)
        if found is not None:
            sys.stdout.write(found)
            faults.append("openapi")
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write("SKIPPED: the parsers are not fuzzed, atheris has no wheel here\n")
        return 1 if faults else 0
    for name in parsers.PARSERS:
        command = [sys.executable, "-m", "tests.soak.fuzz_parser", name]
        limit = f"-max_total_time={asked.seconds}"
        if subprocess.run([*command, limit], check=False).returncode != 0:
            faults.append(name)
    sys.stdout.write(f"faults: {faults or 'none'}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
