"""What the clients of a soak send, and how each of them checks what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnrecal_client import Client, Patience, Result
from bnrecal_client._workflows.backoff import Backoff
from bnrecal_client.result import encode_statistics
from tests.support.service_process import images

SAMPLES = 8
# Large enough to be cut by a kill somewhere in its body.
LARGE_SAMPLES = 1024
LARGE_EVERY = 20
# A batch that is sent again although it was acknowledged, as a client does that lost the answer.
AGAIN_EVERY = 7
PATIENCE = Patience(outage_s=300.0, backoff=Backoff(first_s=0.05, ceiling_s=0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Batches that belong together, made from a seed."""

    seed: int
    length: int

    def batch(self, index: int) -> NDArray[np.float32]:
        """Return one batch."""
        large = index % LARGE_EVERY == LARGE_EVERY - 1
        return images(self.seed * 100_000 + index, samples=LARGE_SAMPLES if large else SAMPLES)

    def samples(self) -> int:
        """Return the samples of all batches."""
        return sum(len(self.batch(index)) for index in range(self.length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The bytes that a recalibration gave."""

    folded: bytes
    unfolded: bytes
    statistics: bytes

    @staticmethod
    def of(result: Result) -> Outcome:
        """Take what the client fetched."""
        assert result.unfolded is not None
        return Outcome(
            folded=result.model,
            unfolded=result.unfolded,
            statistics=encode_statistics(result.statistics),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one client saw of one recalibration.

    Attributes:
        acknowledged: batches that the server said were stored.
        lost: of these, those that it did not hold later.
        doubled: batches or samples that it counted more than once.
        outcome: the bytes of the results.
        attempts: how often a worker took it up.
    """

    acknowledged: int
    lost: int
    doubled: int
    outcome: Outcome
    attempts: int


def compare(acknowledged: set[int], listed: list[int], counted: int) -> tuple[int, int]:
    """Return how many acknowledged batches are lost and how many are counted twice.

    Args:
        acknowledged: indices that the client was told are stored.
        listed: indices that the server lists.
        counted: how many the server counts.
    """
    lost = len(acknowledged - set(listed))
    doubled = (len(listed) - len(set(listed))) + max(0, counted - len(set(listed)))
    return lost, doubled


def step_by_step(client: Client, model: str, stream: Stream) -> Round:
    """Send, list, start, wait and fetch, each by itself."""
    name = client.create(model).id
    acknowledged = set()
    for index in range(stream.length):
        for _ in range(2 if index % AGAIN_EVERY == 0 else 1):
            acknowledged.add(client.send(name, index, {"x": stream.batch(index)}).index)
    listed = [one.index for one in client.received(name)]
    return _finish(client, name, stream, acknowledged, listed)


def in_one_call(client: Client, content: bytes, stream: Stream) -> Round:
    """Let the client's `recalibrate` do it all; it starts only what is complete."""
    batches = (stream.batch(index) for index in range(stream.length))
    result = client.recalibrate(content, batches, progress=False, unfolded=True, poll=0.3)
    assert result.recalibration is not None
    found = client.status(result.recalibration)
    everything = set(range(stream.length))
    lost, doubled = compare(everything, list(everything), found.batches.received)
    doubled += abs(found.batches.samples - stream.samples())
    outcome = Outcome.of(result)
    return Round(
        acknowledged=stream.length,
        lost=lost,
        doubled=doubled,
        outcome=outcome,
        attempts=found.attempts,
    )


def _finish(
    client: Client, name: str, stream: Stream, acknowledged: set[int], listed: list[int]
) -> Round:
    lost, doubled = compare(acknowledged, listed, client.status(name).batches.received)
    client.start(name, stream.length)
    client.wait(name, poll=0.3, progress=False)
    found = client.status(name)
    doubled += abs(found.batches.samples - stream.samples())
    return Round(
        acknowledged=len(acknowledged),
        lost=lost,
        doubled=doubled,
        outcome=Outcome.of(client.fetch(name, unfolded=True)),
        attempts=found.attempts,
    )


def until(found: Callable[[], bool], seconds: float) -> bool:
    """Wait for something; False when the time is over first."""
    end = time.monotonic() + seconds
    while not found():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
