"""Measure networks on domains: one row per domain, method, n, draw, batch size and order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.data import Domain
from benchmarks.accuracy.methods import (
    batch_statistics,
    error_percent,
    exact_statistics,
    source_statistics,
    store,
)
from bn_ops.core.estimators import Estimator, Prior, Replace, Shrink
from examples.digits.data import LabeledImages
from examples.digits.train import MnistResNet

__all__ = ["BATCH_SIZE", "SAMPLES", "Job", "run_jobs"]

Row = dict[str, str | int | float | bool]

SAMPLES = (1, 2, 4, 8, 16, 32, 64, 256, 1024)
ESTIMATORS: Mapping[str, Estimator] = {
    "Replace": Replace(),
    "Prior(16)": Prior(16),
    "Prior(256)": Prior(256),
    "Shrink": Shrink(),
}
BATCH_SIZE = 64

# For the effect of batch size and order: number of images, batch sizes; shuffled and sorted.
SORTED_SAMPLES = 256
SORTED_BATCHES = (1, 2, 8, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One network on one domain.

    Attributes:
        network: state dict of the network.
        seed: seed of the training; identifies the network in the rows.
        domain: the target domain.
        samples: values of n to measure.
        draws: number of streams drawn at each n ≤ 4, at 8 and 16, and above.
        by_batch: whether to measure batch sizes and a class-sorted order too.
    """

    network: Mapping[str, Any]
    seed: int
    domain: Domain
    samples: Sequence[int] = SAMPLES
    draws: tuple[int, int, int] = (3, 2, 1)
    by_batch: bool = False


def run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[list[Row]]:
    """Run jobs in single-threaded processes; yield their rows in the order of the jobs."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, found in zip(jobs, pool.map(run_job, jobs), strict=True):
            print(f"{job.domain.name} (seed {job.seed}): {len(found)} rows", flush=True)
            yield found


def run_job(job: Job) -> list[Row]:
    """Measure one network on one domain."""
    torch.set_num_threads(1)
    trial = _Trial(job)
    rows = [trial.row("source", 0, 0)]
    for n in job.samples:
        for draw in range(_draws(n, job.draws)):
            rows += trial.all_methods(n, draw)
    return rows + (list(trial.by_batch()) if job.by_batch else [])


def _draws(n: int, draws: tuple[int, int, int]) -> int:
    return draws[0] if n <= 4 else draws[1] if n <= 16 else draws[2]


class _Trial:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._network = MnistResNet().eval()
        self._network.load_state_dict(job.network)
        for parameter in self._network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        self._source = source_statistics(self._network)

    def row(self, method: str, n: int, draw: int, **more: str | int) -> Row:
        test = self._job.domain.test
        return {
            "domain": self._job.domain.name,
            "development": self._job.domain.development,
            "seed": self._job.seed,
            "study": "regret",
            "method": method,
            "samples": n,
            "draw": draw,
            "batch": BATCH_SIZE,
            "order": "shuffled",
            **more,
            "error": round(error_percent(self._network, test.images, test.labels), 3),
        }

    def all_methods(self, n: int, draw: int) -> Iterator[Row]:
        images = self._draw(n, draw).images
        for name, estimator in ESTIMATORS.items():
            store(self._network, self._source)
            exact_statistics(self._network, images, estimator)
            yield self.row(name, n, draw)
        yield from self._batch_methods(images, BATCH_SIZE, draw=draw)

    def by_batch(self) -> Iterator[Row]:
        drawn = self._draw(SORTED_SAMPLES, 0)
        by_class = drawn.images[np.argsort(drawn.labels, kind="stable")]
        for order, images in (("shuffled", drawn.images), ("sorted", by_class)):
            store(self._network, self._source)
            exact_statistics(self._network, images, Replace())
            yield self.row("Replace", SORTED_SAMPLES, 0, order=order, study="batch")
            for size in SORTED_BATCHES:
                yield from self._batch_methods(images, size, draw=0, order=order, study="batch")

    def _batch_methods(
        self, images: NDArray[np.float32], size: int, *, draw: int, **more: str
    ) -> Iterator[Row]:
        store(self._network, self._source)
        found = batch_statistics(self._network, images, size)
        for name, statistics in found.items():
            store(self._network, statistics)
            yield self.row(name, len(images), draw, batch=size, **more)

    def _draw(self, n: int, draw: int) -> LabeledImages:
        stream = self._job.domain.stream
        random = np.random.default_rng([n, draw])
        return stream.take(random.choice(len(stream.labels), n, replace=False))
