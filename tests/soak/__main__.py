"""The long forms of the failure tests: `make soak ARGS='--kills 200'`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.soak import kills


def main() -> int:
    """Run what was asked for; the exit status says whether all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and targets")
    parser.add_argument("--length", type=int, default=120, help="batches in each stream")
    asked = parser.parse_args()
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


if __name__ == "__main__":
    sys.exit(main())
