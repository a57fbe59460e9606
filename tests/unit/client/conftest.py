from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client_server import ClientServer, client_server
from tests.support.fake_time import FakeTime
from tests.support.played_clients import Calls, calls_of, played, played_async


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClientServer]:
    with client_server(tmp_path / "server") as running:
        yield running


@pytest.fixture(params=["Client", "AsyncClient"])
def client(request: pytest.FixtureRequest, server: ClientServer, time: FakeTime) -> Calls:
    """Return the methods of one of the two clients of the server."""
    kind = played if request.param == "Client" else played_async
    return calls_of(kind(server.transport, time))
