from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings
from service.storage.ledger.postgres import PostgresLedger
from service.storage.ledger.protocol import Ledger
from service.storage.ledger.sqlite import SqliteLedger
from tests.support.postgres import REQUIRED, Cluster, cluster
from tests.support.s3 import REQUIRED as S3_REQUIRED
from tests.support.s3 import ObjectServer
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, OpenLedger, StartServer
from tests.support.service_loop import serving


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


# Tests that also run on PostgreSQL where it is required, as in `.ci/run`.
ON_EACH_DATABASE = {
    "batches/test_api.py",
    "batches/test_recording.py",
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
# Tests that also run with blobs in S3, under the same condition.
ON_EACH_BLOB_STORE = {
    "batches/test_api.py",
    "models/test_api.py",
    "oneshot/test_api.py",
    "recalibrations/test_api.py",
    "recalibrations/test_orphans.py",
    "recalibrations/test_recovery.py",
    "recalibrations/test_result_api.py",
    "samples/test_api.py",
}
# Tests among them that are about files of the data folder: their age, or its full disk.
OF_THE_FOLDER = {"test_full_disk_rejects_only_uploads", "test_startup_removes_orphaned_files"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path.relative_to(Path(__file__).parent).as_posix()
    marks = metafunc.definition.iter_markers("parametrize")
    if any(one.args[0] == "database" for one in marks):
        return
    if not {"database", "blob_store"} <= set(metafunc.fixturenames):
        return
    database = "postgres" if REQUIRED else "sqlite"
    stores: list[Any] = [("sqlite", "folder")]
    if database == "postgres" and path in ON_EACH_DATABASE:
        stores.append((database, "folder"))
    if (
        S3_REQUIRED
        and path in ON_EACH_BLOB_STORE
        and metafunc.function.__name__ not in OF_THE_FOLDER
    ):
        stores.append(pytest.param(database, "s3", marks=pytest.mark.xdist_group("s3")))
    if len(stores) > 1:
        names = ["database", "blob_store"]
        metafunc.parametrize(names, stores, indirect=True, scope="function")


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
def blob_store(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty prefix in a bucket, or nothing for the data folder."""
    if getattr(request, "param", "folder") == "folder":
        return ""
    s3: ObjectServer = request.getfixturevalue("s3")
    return f"s3://{s3.bucket()}/prefix"


@pytest.fixture
def settings(tmp_path: Path, database: str, blob_store: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", ledger=database, blobs=blob_store)


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
