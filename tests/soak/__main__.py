"""The long forms of the failure tests: `make soak ARGS='--kills 200'`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.soak import kills, powercut


def main() -> int:
    """Run what was asked for; the exit status says whether all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("what", nargs="?", choices=("kills", "powercut"), default="kills")
    parser.add_argument("--cuts", type=int, default=50, help="power cuts")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and targets")
    parser.add_argument("--length", type=int, default=120, help="batches in each stream")
    asked = parser.parse_args()
    return _power_cuts(asked) if asked.what == "powercut" else _kills(asked)


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


if __name__ == "__main__":
    sys.exit(main())
