"""Source batches: the second stream of a model without BatchNorm layers."""

from __future__ import annotations

import numpy as np
import pytest

from bnrecal_client import BatchError, ConflictError, ModelError, Progress
from tests.support.client_server import ClientServer, Fault
from tests.support.played_clients import Calls, check_statistics, stream

FOLDED = b"folded model of a client"


def puts(server: ClientServer) -> list[str]:
    """Return stream and index of each uploaded batch, in order."""
    lines = (line for line in server.transport.requests if line.startswith("PUT"))
    return ["/".join(line.split("/")[-2:]) for line in lines]


def test_both_streams_are_sent_and_started(client: Calls, server: ClientServer) -> None:
    steps: list[Progress] = []
    batches = stream(2)
    result = client.recalibrate(
        FOLDED, batches, source_batches=stream(3), connections=1, progress=steps.append
    )
    assert puts(server) == [
        *(f"source-batches/{index}" for index in range(3)),
        *(f"batches/{index}" for index in range(2)),
    ]
    (found,) = server.recalibrations
    assert (found["batches"]["total"], found["source_batches"]["total"]) == (2, 3)
    check_statistics(result, batches)
    assert Progress(phase="sending-source", done=3, total=3) in steps
    assert client.status(server.id).source_batches.received == 3


def test_missing_source_batches_are_an_error_before_anything_is_sent(
    client: Calls, server: ClientServer
) -> None:
    with pytest.raises(ModelError, match=r"pass unlabeled samples.* as source_batches="):
        client.recalibrate(FOLDED, stream())
    assert (server.recalibrations, puts(server)) == ([], [])


def test_interrupted_source_stream_is_resumed(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [
        Fault(kind="problem", where="PUT .*/source-batches/2", status=500, retryable=False)
    ]
    with pytest.raises(Exception, match="injected"):
        client.recalibrate(FOLDED, stream(), source_batches=stream(4), connections=1)
    before = puts(server)
    result = client.recalibrate(
        FOLDED, stream(), source_batches=stream(4), resume=server.id, connections=1
    )
    assert puts(server)[len(before) :][:2] == ["source-batches/2", "source-batches/3"]
    check_statistics(result, stream())


def test_other_source_data_cannot_resume(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [
        Fault(kind="problem", where="PUT .*/source-batches/1", status=500, retryable=False)
    ]
    with pytest.raises(Exception, match="injected"):
        client.recalibrate(FOLDED, stream(), source_batches=stream(4), connections=1)
    other = [batch + 1 for batch in stream(4)]
    with pytest.raises(ConflictError, match="source batch 0 differs"):
        client.recalibrate(FOLDED, stream(), source_batches=other, resume=server.id)


def test_bad_source_samples_are_skipped_and_named(client: Calls, server: ClientServer) -> None:
    source = stream(2)
    source[1][2, 0] = np.nan
    result = client.recalibrate(
        FOLDED, stream(), source_batches=source, on_bad_sample="skip", connections=1
    )
    assert [(skip.index, skip.name) for skip in result.skipped] == [(7, "source sample 7")]
    assert server.recalibrations[0]["source_batches"]["samples"] == 9


def test_source_batches_are_batches(client: Calls) -> None:
    with pytest.raises(BatchError, match=r"named 'x'|takes"):
        client.recalibrate(FOLDED, stream(), source_batches=[(stream()[0], stream()[0])])


def test_step_by_step(client: Calls, server: ClientServer) -> None:
    opened = client.create(client.upload(FOLDED).id)
    client.send_source(opened.id, 0, {"x": stream()[0]})
    client.send(opened.id, 0, {"x": stream()[1]})
    started = client.start(opened.id, 1, source_batches=1)
    assert started.source_batches.total == 1
    assert client.wait(opened.id, poll=0.01).state == "succeeded"
    assert server.id == opened.id
