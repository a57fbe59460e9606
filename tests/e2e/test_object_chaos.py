"""The short form of `make soak ARGS=objects`: each fault of an object store, under senders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.object_faults import EVENTS, KILL, disturb
from tests.support.s3 import Ceph, ceph

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("s3")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ceph]:
    with ceph() as found:
        yield found


def test_faults_lose_and_double_nothing(tmp_path: Path, cluster: Ceph) -> None:
    events = (*EVENTS, KILL, KILL)
    tally = disturb(tmp_path, cluster, events, seed=1)
    assert tally.events.total() == len(events)
    assert tally.acknowledged > 100
    assert tally.refused > 0
    assert tally.passed, tally


def test_rows_before_objects_lose_batches(tmp_path: Path, cluster: Ceph) -> None:
    """The counting notices a server that stores in the wrong order."""
    tally = disturb(tmp_path, cluster, (KILL,) * 3, seed=2, module="tests.soak.row_first_server")
    assert tally.lost > 0
