"""Every benchmark by one command: `python -m benchmarks [name …]`, or `make bench`.

Each measures ratios in one run, writes its raw numbers to `benchmarks/results/` and its table into
the page of `docs/` that speaks of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

BENCHMARKS = {
    "speed": "exact statistics against a plain pass and against update_bn",
    "folding": "folding against other tools: which cases, what is left, how fast the result is",
    "ingest": "durable batches per second over HTTP against the limits of disk and hash",
    "accuracy.digits": "estimators on MNIST → scikit-learn digits",
    "accuracy.fashion": "estimators on Fashion-MNIST with corruptions (needs Debian's dataset)",
}

# What `make bench` runs without arguments; the accuracy ones take longer and need data.
USUAL = ("speed", "folding", "ingest")


def main() -> int:
    """Run the benchmarks named on the command line, each in a process of its own."""
    listed = "\n".join(f"  {name:17} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: %(default)s")
    parser.set_defaults(names=list(USUAL))
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}")
    failed = [name for name in names if not run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str) -> bool:
    """Run one benchmark; tell whether it ended well."""
    print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False)
    print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
