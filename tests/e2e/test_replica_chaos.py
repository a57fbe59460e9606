"""The short form of `make soak ARGS=replicas`: two replicas and runners on PostgreSQL and S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import replicas
from tests.soak.replicas import DATABASE, GATEWAY, REPLICA, RUNNER, SHARD, STALL, STANDBY
from tests.support.postgres import REQUIRED
from tests.support.s3 import Ceph, ceph

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("s3"),
    pytest.mark.skipif(not REQUIRED, reason="without PostgreSQL: set BNRECAL_TEST_POSTGRES=1"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ceph]:
    with ceph() as found:
        yield found


def test_faults_lose_and_double_nothing(tmp_path: Path, cluster: Ceph) -> None:
    events = (RUNNER, SHARD, REPLICA, DATABASE, STALL, GATEWAY, SHARD, RUNNER, STANDBY, REPLICA)
    with replicas.deployed(tmp_path, cluster) as deployment:
        tally = replicas.disturb(tmp_path, deployment, events, seed=1, length=100)
    assert tally.events.total() == len(events)
    assert tally.recalibrations > 1
    assert tally.acknowledged >= 100 * tally.recalibrations
    assert tally.repeated > 0
    assert tally.refused > 0
    assert tally.attempts >= tally.recalibrations
    assert tally.replaced > 0
    assert tally.passed, tally


def test_rows_before_objects_lose_batches(tmp_path: Path, cluster: Ceph) -> None:
    """The counting notices a server that stores in the wrong order."""
    module = "tests.soak.row_first_server"
    with replicas.deployed(tmp_path, cluster, module=module) as deployment:
        tally = replicas.disturb(
            tmp_path, deployment, (REPLICA,) * 2, seed=2, length=100_000, complete=0
        )
    assert tally.lost > 0


def test_asynchronous_commits_lose_batches(tmp_path: Path, cluster: Ceph) -> None:
    """The counting notices a database that acknowledges too early."""
    early = {
        "synchronous_commit": "off",
        "wal_writer_delay": "10s",
        "wal_writer_flush_after": "1GB",
    }
    with replicas.deployed(tmp_path, cluster, **early) as deployment:
        deployment.primary.checkpoint()  # the tables stay
        tally = replicas.disturb(
            tmp_path, deployment, (DATABASE,), seed=3, length=100_000, complete=0
        )
    assert tally.lost > 0
