"""Both clients on a clock of the test's, and the stream that they send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from anyio.from_thread import start_blocking_portal
from numpy.typing import NDArray

from bnrecal_client import AsyncClient, Backoff, Client, Result, RetryPolicy
from tests.support.fake_time import FakeTime

URL = "http://127.0.0.1:8000"
RETRY = RetryPolicy(backoff=Backoff(jitter=lambda: 1.0))


class Calls:
    """Calls a client's methods by name and returns their results, awaited where needed."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(name, *args, **kwargs)


def stream(count: int = 4, size: int = 5) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    return [rng.normal(3.0, 2.0, (size, 3)).astype(np.float32) for _ in range(count)]


def check_statistics(result: Result, batches: list[NDArray[np.float32]]) -> None:
    """Compare with the float64 moments of the whole stream; equal except for summation order."""
    pooled = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(result.statistics["bn.running_mean"], pooled.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.statistics["bn.running_var"], pooled.var(0), rtol=1e-12)


def played(
    transport: httpx.BaseTransport, time: FakeTime, *, url: str = URL, token: str | None = None
) -> Client:
    def sleep(seconds: float) -> None:
        with start_blocking_portal() as portal:
            portal.call(time.sleep, seconds)

    return Client(url, token, retry=RETRY, transport=transport, sleep=sleep, clock=time.clock)


def played_async(
    transport: httpx.AsyncBaseTransport, time: FakeTime, *, url: str = URL, token: str | None = None
) -> AsyncClient:
    return AsyncClient(
        url, token, retry=RETRY, transport=transport, sleep=time.sleep, clock=time.clock
    )


def calls_of(client: Client | AsyncClient) -> Calls:
    """Call a client's methods from synchronous code."""
    if isinstance(client, Client):
        return Calls(lambda name, *args, **kwargs: getattr(client, name)(*args, **kwargs))

    async def call(name: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(client, name)(*args, **kwargs)

    return Calls(lambda name, *args, **kwargs: asyncio.run(call(name, *args, **kwargs)))
