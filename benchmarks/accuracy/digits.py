"""Errors of every method from MNIST to scikit-learn's digits, and without shift, on three networks.

`python -m benchmarks.accuracy.digits --cache FOLDER`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.accuracy.data import digit_domains
from benchmarks.accuracy.networks import DEFAULT_CACHE, trained
from benchmarks.accuracy.results import write_results
from benchmarks.accuracy.runs import Job, run_jobs
from benchmarks.accuracy.table import write_tables

TRAINING_DIGITS = 4_500
EPOCHS = 3
SEEDS = (0, 1, 2)


def main() -> None:
    """Train or load the networks, measure, and write the rows and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder of trained networks"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    mnist, domains = digit_domains(TRAINING_DIGITS)
    networks = {
        seed: trained(options.cache, "digits", mnist, seed=seed, epochs=EPOCHS) for seed in SEEDS
    }
    began = time.perf_counter()
    jobs = [
        Job(network=network, seed=seed, domain=domain, by_batch=seed == 0)
        for seed, network in networks.items()
        for domain in domains
    ]
    rows = [row for found in run_jobs(jobs, options.workers) for row in found]
    print(write_results("digits", rows, seconds=time.perf_counter() - began))
    print(write_tables())


if __name__ == "__main__":
    main()
