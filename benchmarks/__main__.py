"""Run the benchmarks: `python -m benchmarks [name …]`, or `make bench`.

Each benchmark measures ratios within one run, writes its raw numbers to `benchmarks/results/` and
its table to the page of `docs/` that discusses it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

BENCHMARKS = {
    "speed": "exact statistics compared with a plain forward pass and with update_bn",
    "folding": "folding compared with other tools: supported cases, remaining layers, latency",
    "ingest": "durable batches per second over HTTP, compared with disk and hash throughput",
    "planning": "what `bnrecal plan` predicts, compared with runs",
    "shards": "runs in shards, on this machine and on a Ray cluster (needs the extra ray)",
    "accuracy.digits": "estimators on MNIST → scikit-learn digits",
    "accuracy.input_check": "the input check on real networks (needs two Debian packages)",
    "accuracy.folded_models": "folded models with inserted BatchNorm (needs a Debian package)",
    "accuracy.choice": "candidates of Auto on images and photographs (hours on a CPU)",
    "accuracy.fashion": "estimators on corrupted Fashion-MNIST (needs Debian's dataset package)",
}

# Run by `make bench` without arguments. The accuracy benchmarks take longer and need data sets.
DEFAULT = ("speed", "folding", "ingest")


def main() -> int:
    """Run the benchmarks named on the command line, each in its own process."""
    listed = "\n".join(f"  {name:17} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: %(default)s")
    parser.set_defaults(names=list(DEFAULT))
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}")
    failed = [name for name in names if not run(name)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str) -> bool:
    """Run one benchmark and return whether it succeeded."""
    print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False)
    print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
