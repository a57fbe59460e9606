from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from service.storage.ledger.postgres import PostgresLedger
from service.storage.ledger.protocol import Ledger
from service.storage.ledger.sqlite import SqliteLedger
from tests.support.postgres import REQUIRED, Cluster, cluster
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, OpenLedger, StartServer
from tests.support.service_loop import serving


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


# Tests that also run on PostgreSQL where it is required, as in `.ci/run`; elsewhere they would only
# make the suite slower. The tests of the storage always use it, if it is installed.
ON_EACH_DATABASE = {
    "batches/test_api.py",
    "batches/test_source_batches.py",
    "models/test_api.py",
    "oneshot/test_api.py",
    "recalibrations/test_admission.py",
    "recalibrations/test_api.py",
    "recalibrations/test_event_api.py",
    "recalibrations/test_recovery.py",
    "recalibrations/test_result_api.py",
    "web/test_visibility.py",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path.relative_to(Path(__file__).parent).as_posix()
    marks = metafunc.definition.iter_markers("parametrize")
    if path not in ON_EACH_DATABASE or any(one.args[0] == "database" for one in marks):
        return
    if "database" in metafunc.fixturenames and os.environ.get(REQUIRED):
        metafunc.parametrize("database", ["sqlite", "postgres"], indirect=True, scope="function")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with cluster(fsync="off") as found:  # no test of these cuts the power
        yield found


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty ledger, or nothing for SQLite."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    found: Cluster = request.getfixturevalue("postgres")
    return found.create_schema()


@pytest.fixture
def settings(tmp_path: Path, database: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", ledger=database)


@pytest.fixture
def open_ledger(settings: Settings) -> OpenLedger:
    """Open the ledger of the settings without a server."""

    def opened() -> Ledger:
        if settings.ledger:
            return PostgresLedger(settings.ledger)
        return SqliteLedger(settings.data_dir / "ledger.sqlite3")

    return opened


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
