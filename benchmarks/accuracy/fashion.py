"""Errors of every method on Fashion-MNIST, clean and under 15 corruptions.

`python -m benchmarks.accuracy.fashion --cache FOLDER`. It needs Debian's dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.accuracy.data import FASHION_FOLDER, fashion_domains, read_fashion
from benchmarks.accuracy.networks import DEFAULT_CACHE, trained
from benchmarks.accuracy.results import EMPTY, read_results, write_results
from benchmarks.accuracy.runs import Job, run_jobs
from benchmarks.accuracy.table import write_tables

TRAINING_IMAGES = 45_000
EPOCHS = 2
DRAWS = (2, 1, 1)  # streams at n ≤ 4, at 8 and 16, and above
BY_BATCH = frozenset({"clean", "contrast"})


def main() -> None:
    """Train or load the networks, measure, and write the rows and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder of trained networks"
    )
    parser.add_argument("--data", type=Path, default=FASHION_FOLDER, help="folder of the IDX files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--domains", nargs="+", help="measure these only; keep the existing rows of the others"
    )
    options = parser.parse_args()

    training = read_fashion("train", options.data)
    order = np.random.default_rng(0).permutation(len(training.labels))[:TRAINING_IMAGES]
    network = trained(options.cache, "fashion", training.take(order), seed=0, epochs=EPOCHS)
    began = time.perf_counter()
    jobs = [
        Job(
            network=network,
            seed=0,
            domain=domain,
            draws=DRAWS,
            by_batch=domain.name in BY_BATCH,
        )
        for domain in fashion_domains(options.data)
        if options.domains is None or domain.name in options.domains
    ]
    again = {job.domain.name for job in jobs}
    rows = [row for row in (read_results("fashion") or EMPTY)["rows"] if row["domain"] not in again]
    for found in run_jobs(jobs, options.workers):
        # Written after each domain: an interrupted run loses one domain, not all.
        rows += found
        write_results("fashion", rows, seconds=time.perf_counter() - began)
    print(write_tables())


if __name__ == "__main__":
    main()
