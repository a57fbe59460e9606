"""Streams that the clients of a soak send, and checks of the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnrecal_client import Client, Result, RetryPolicy
from bnrecal_client._http.retry import Backoff
from bnrecal_client.result import encode_statistics
from tests.support.service_process import images

SAMPLES = 8
# Large enough for a kill in the middle of its body.
LARGE_SAMPLES = 1024
LARGE_EVERY = 20
# Resend a batch although it was acknowledged, as a client that lost the response would.
RESEND_EVERY = 7
RETRY = RetryPolicy(total_timeout=300.0, backoff=Backoff(first_s=0.05, ceiling_s=0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A stream of batches generated from a seed."""

    seed: int
    length: int

    def batch(self, index: int) -> NDArray[np.float32]:
        """Return the batch at `index`."""
        large = index % LARGE_EVERY == LARGE_EVERY - 1
        return images(self.seed * 100_000 + index, samples=LARGE_SAMPLES if large else SAMPLES)

    def samples(self) -> int:
        """Return the number of samples in all batches."""
        return sum(len(self.batch(index)) for index in range(self.length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result files of a recalibration."""

    folded: bytes
    unfolded: bytes
    statistics: bytes

    @staticmethod
    def of(result: Result) -> Outcome:
        """Return the files of a fetched result."""
        assert result.unfolded is not None
        return Outcome(
            folded=result.model,
            unfolded=result.unfolded,
            statistics=encode_statistics(result.statistics),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One recalibration, as seen by its client.

    Attributes:
        acknowledged: number of batches that the server acknowledged.
        lost: number of acknowledged batches missing later.
        duplicated: number of batches or samples counted more than once.
        outcome: the result files.
        attempts: number of times a worker started it.
    """

    acknowledged: int
    lost: int
    duplicated: int
    outcome: Outcome
    attempts: int


def compare(acknowledged: set[int], listed: list[int], counted: int) -> tuple[int, int]:
    """Return the number of lost acknowledged batches and of duplicated batches.

    Args:
        acknowledged: indices that the server acknowledged.
        listed: indices that the server lists.
        counted: number of batches that the server counts.
    """
    lost = len(acknowledged - set(listed))
    duplicated = (len(listed) - len(set(listed))) + max(0, counted - len(set(listed)))
    return lost, duplicated


def step_by_step(client: Client, model: str, stream: Stream) -> Round:
    """Recalibrate by separate calls: send, list, start, wait and fetch."""
    name = client.create(model).id
    acknowledged = set()
    for index in range(stream.length):
        for _ in range(2 if index % RESEND_EVERY == 0 else 1):
            acknowledged.add(client.send(name, index, {"x": stream.batch(index)}).index)
    listed = [one.index for one in client.received(name)]
    return _finish(client, name, stream, acknowledged, listed)


def in_one_call(client: Client, content: bytes, stream: Stream) -> Round:
    """Recalibrate by `Client.recalibrate`, which starts only a complete stream."""
    batches = (stream.batch(index) for index in range(stream.length))
    result = client.recalibrate(content, batches, progress=False, unfolded=True, poll=0.3)
    assert result.recalibration_id is not None
    found = client.status(result.recalibration_id)
    everything = set(range(stream.length))
    lost, duplicated = compare(everything, list(everything), found.batches.received)
    duplicated += abs(found.batches.samples - stream.samples())
    outcome = Outcome.of(result)
    return Round(
        acknowledged=stream.length,
        lost=lost,
        duplicated=duplicated,
        outcome=outcome,
        attempts=found.attempts,
    )


def _finish(
    client: Client, name: str, stream: Stream, acknowledged: set[int], listed: list[int]
) -> Round:
    lost, duplicated = compare(acknowledged, listed, client.status(name).batches.received)
    client.start(name, stream.length)
    client.wait(name, poll=0.3, progress=False)
    found = client.status(name)
    duplicated += abs(found.batches.samples - stream.samples())
    return Round(
        acknowledged=len(acknowledged),
        lost=lost,
        duplicated=duplicated,
        outcome=Outcome.of(client.fetch(name, unfolded=True)),
        attempts=found.attempts,
    )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; return False after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
