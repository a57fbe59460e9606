from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer
from tests.support.service_loop import serving


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def start_server(settings: Settings, executor: FakeExecutor) -> Iterator[StartServer]:
    """Start an in-process server; keyword arguments override settings."""
    with ExitStack() as stack:

        def start(**changes: object) -> Api:
            changed = settings.model_copy(update=changes)
            return Api(stack.enter_context(serving(create_app(changed, executor=executor))))

        yield start


@pytest.fixture
def api(start_server: StartServer) -> Api:
    return start_server()
