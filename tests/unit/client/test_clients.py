"""The behavior of both clients, against the real server with injected faults."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnrecal_client import (
    AccessError,
    AsyncClient,
    BatchError,
    Client,
    ConflictError,
    InputError,
    Interrupted,
    LimitError,
    ModelError,
    NotFoundError,
    OptionError,
    Progress,
    RecalibrationCancelled,
    RecalibrationFailed,
    ServerUnreachable,
    TimedOut,
    UnexpectedResponseError,
)
from tests.support.client_server import MODEL, ClientServer, Fault, client_server
from tests.support.fake_time import FakeTime
from tests.support.played_clients import (
    URL,
    Calls,
    calls_of,
    check_statistics,
    played,
    played_async,
    stream,
)

Batch = NDArray[np.float32]


def test_stream_gives_statistics_model_and_report(client: Calls, server: ClientServer) -> None:
    batches = stream()
    result = client.recalibrate(MODEL, batches, progress=False)
    check_statistics(result, batches)
    assert result.model == b"folded " + MODEL
    assert result.unfolded is None
    assert result.report["stream"] == {"batches": 4}
    assert result.report_html == "<h1>report</h1>"
    assert result.recalibration_id == server.id


def test_unfolded_model_is_fetched_on_request(client: Calls) -> None:
    result = client.recalibrate(MODEL, stream(), progress=False, unfolded=True)
    assert result.unfolded == b"unfolded " + MODEL


def test_model_file_is_uploaded_from_disk(
    client: Calls, server: ClientServer, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL * 100_000)
    result = client.recalibrate(path, stream(), progress=False)
    (model,) = server.http.get("/v1/models").json()["items"]
    assert model["bytes"] == len(MODEL) * 100_000
    assert result.model


def test_stored_model_is_not_sent_again(client: Calls, server: ClientServer) -> None:
    client.recalibrate(MODEL, stream(), progress=False)
    client.recalibrate(MODEL, stream(), progress=False)
    assert server.transport.requests.count("POST /v1/models") == 1


def test_model_message_is_recognized_by_its_method(client: Calls) -> None:
    class Message:
        def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
            return MODEL

    assert client.upload(Message()).bytes == len(MODEL)


def test_options_reach_server_in_their_json_form(client: Calls, server: ClientServer) -> None:
    options = {"method": "batch", "estimator": "prior:16", "layers": ["bn*", "bn1"]}
    client.recalibrate(MODEL, stream(), progress=False, **options)
    (opened,) = server.recalibrations
    stored = {name: opened["options"][name] for name in options}
    assert stored == {
        "method": "batch",
        "estimator": {"name": "prior", "samples": 16, "mixture": False},
        "layers": ["bn*", "bn1"],
    }


def test_iterator_is_read_on_demand(client: Calls, server: ClientServer) -> None:
    ahead: list[int] = []

    def lazily() -> Iterator[Batch]:
        for index, batch in enumerate(stream()):
            ahead.append(index - len(server.stored(server.id)))
            yield batch

    client.recalibrate(MODEL, lazily(), progress=False)
    assert ahead == [0, 0, 0, 0]


def test_select_extracts_the_input(client: Calls) -> None:
    batches = stream()
    pairs = [(batch, "label") for batch in batches]
    result = client.recalibrate(MODEL, pairs, select=lambda pair: pair[0], progress=False)
    check_statistics(result, batches)


def test_error_for_pair_suggests_select(client: Calls) -> None:
    with pytest.raises(BatchError, match="select=lambda item") as caught:
        client.recalibrate(MODEL, [(stream()[0], np.zeros((5, 2)))], progress=False)
    assert (caught.value.batch, caught.value.code) == (0, "batch-input")


def test_batches_for_two_inputs(client: Calls, server: ClientServer) -> None:
    server.executor.inputs = ("x", "a")
    first, second = stream(2)
    batches = [{"a": first, "x": second}, (second, first)]
    check_statistics(client.recalibrate(MODEL, batches, progress=False), [second, second])


def test_one_array_for_two_inputs_is_an_error(client: Calls, server: ClientServer) -> None:
    server.executor.inputs = ("x", "a")
    with pytest.raises(BatchError, match="pass a dict with x, a"):
        client.recalibrate(MODEL, stream(), progress=False)


def test_empty_stream_is_an_error(client: Calls, server: ClientServer) -> None:
    with pytest.raises(InputError, match="empty") as caught:
        client.recalibrate(MODEL, [], progress=False)
    assert caught.value.code == "stream-empty"
    assert not any(line.endswith("/start") for line in server.transport.requests)


@pytest.mark.parametrize("batches", [np.zeros((4, 3)), {"x": np.zeros((4, 3))}, 3, "data"])
def test_single_batch_is_an_error(client: Calls, batches: object) -> None:
    with pytest.raises(OptionError, match="iterable of batches"):
        client.recalibrate(MODEL, batches, progress=False)


def test_progress_names_each_phase_in_order(client: Calls) -> None:
    seen: list[Progress] = []
    client.recalibrate(MODEL, stream(), progress=seen.append)
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    # How many of the server's phases a poll sees depends on its speed.
    assert (phases[:2], phases[-1]) == (["model", "sending"], "fetching")
    sending = [(p.done, p.total) for p in seen if p.phase == "sending"]
    assert sending == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "where",
    [
        "GET /v1/models/",
        "POST /v1/models",
        "POST /v1/recalibrations$",
        "PUT .*/batches/2",
        "/start",
        "GET /v1/recalibrations/rc_[^/]*$",
        "/statistics",
    ],
)
@pytest.mark.parametrize("kind", ["refuse", "lose", "problem", "page"])
def test_every_request_survives_faults(
    client: Calls, server: ClientServer, where: str, kind: str
) -> None:
    server.transport.faults = [Fault(kind=kind, where=where, times=3)]
    batches = stream()
    result = client.recalibrate(MODEL, batches, progress=False)
    check_statistics(result, batches)
    assert result.recalibration_id == server.id
    assert server.transport.faults[0].times == 0


def test_outage_does_not_change_the_result(client: Calls, server: ClientServer) -> None:
    undisturbed = client.recalibrate(MODEL, stream(), progress=False)
    server.transport.faults = [
        Fault(kind="lose", where="PUT .*/batches/1"),
        Fault(kind="refuse", where="PUT .*/batches/1", times=12),
    ]
    disturbed = client.recalibrate(MODEL, stream(), progress=False)
    for name, values in undisturbed.statistics.items():
        assert values.tobytes() == disturbed.statistics[name].tobytes()


def test_pauses_grow_up_to_a_ceiling(client: Calls, server: ClientServer, time: FakeTime) -> None:
    server.transport.faults = [Fault(kind="refuse", where="PUT .*/0", times=8)]
    client.recalibrate(MODEL, stream(), progress=False)
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    np.testing.assert_allclose(time.slept[:8], expected, rtol=1e-12)


def test_retry_after_is_obeyed(client: Calls, server: ClientServer, time: FakeTime) -> None:
    server.transport.faults = [
        Fault(kind="problem", where="PUT .*/0", headers={"Retry-After": "17"}),
    ]
    client.recalibrate(MODEL, stream(), progress=False)
    assert time.slept[0] == 17.0


def test_callback_sees_retries(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [Fault(kind="refuse", where="PUT .*/0")]
    seen: list[Progress] = []
    client.recalibrate(MODEL, stream(), progress=seen.append)
    assert [p.note for p in seen if p.note] == ["connection refused"]


def test_error_after_all_retries(client: Calls, server: ClientServer, time: FakeTime) -> None:
    server.transport.faults = [Fault(kind="refuse", where="PUT .*/1", times=1000)]
    with pytest.raises(ServerUnreachable, match="does not respond") as caught:
        client.recalibrate(MODEL, stream(), progress=False)
    assert caught.value.recalibration_id == server.id
    assert 100 < time.now <= 120


def test_wrong_address_is_reported_within_seconds(
    client: Calls, server: ClientServer, time: FakeTime
) -> None:
    server.transport.faults = [Fault(kind="refuse", times=1000)]
    with pytest.raises(ServerUnreachable, match=re.escape(URL)):
        client.recalibrate(MODEL, stream(), progress=False)
    assert time.now <= 5


def test_final_problem_is_not_retried(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [
        Fault(kind="problem", where="PUT", status=503, code="storage-full", retryable=False)
    ]
    with pytest.raises(LimitError) as caught:
        client.recalibrate(MODEL, iter(stream()), progress=False)
    assert (caught.value.code, caught.value.recalibration_id) == ("storage-full", server.id)
    assert len(server.sent) == 1


def test_too_many_requests_end_as_limit(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [
        Fault(kind="problem", where="PUT", status=429, code="quota-exceeded", times=1000)
    ]
    with pytest.raises(LimitError) as caught:
        client.recalibrate(MODEL, stream(), progress=False)
    assert caught.value.problem is not None
    assert caught.value.problem.status == 429


def test_damaged_upload_is_sent_again(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [
        Fault(kind="problem", where="PUT", status=400, code="digest-mismatch", retryable=None)
    ]
    batches = stream()
    check_statistics(client.recalibrate(MODEL, batches, progress=False), batches)


def test_damaged_download_is_fetched_again(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [Fault(kind="damage", where="rc_[^/]*/model")]
    result = client.recalibrate(MODEL, stream(), progress=False)
    assert result.model == b"folded " + MODEL


def test_permanently_damaged_download(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [Fault(kind="damage", where="rc_[^/]*/model", times=1000)]
    with pytest.raises(UnexpectedResponseError, match=r"arrived damaged, \d+ times"):
        client.recalibrate(MODEL, stream(), progress=False)


def test_resume_sends_only_what_is_missing(client: Calls, server: ClientServer) -> None:
    server.transport.page = 2
    batches = stream(7)
    opened = client.create(client.upload(MODEL).id)
    for index in (0, 2, 3, 5):
        client.send(opened.id, index, {"x": batches[index]})
    server.transport.requests.clear()
    result = client.recalibrate(MODEL, batches, progress=False, resume=opened.id)
    assert sorted(server.sent) == [1, 4, 6]
    check_statistics(result, batches)


def test_resume_continues_after_outage(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [Fault(kind="refuse", where="PUT .*/4", times=1000)]
    batches = stream(7)
    with pytest.raises(ServerUnreachable) as caught:
        client.recalibrate(MODEL, batches, progress=False)
    server.transport.faults = []
    server.transport.requests.clear()
    resume = caught.value.recalibration_id
    result = client.recalibrate(MODEL, batches, progress=False, resume=resume)
    # 5 and 6 may have been stored before 4 was given up.
    assert {4} <= set(server.sent) <= {4, 5, 6}
    check_statistics(result, batches)


def test_resume_rejects_different_data(client: Calls, server: ClientServer) -> None:
    opened = client.create(client.upload(MODEL).id)
    client.send(opened.id, 0, {"x": stream()[1]})
    with pytest.raises(ConflictError, match="batch 0 differs") as caught:
        client.recalibrate(MODEL, stream(), progress=False, resume=opened.id)
    assert caught.value.code == "batch-conflict"
    assert server.state(opened.id) == "open"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "batch"}, "method"),
        ({"estimator": "shrink"}, "estimator"),
        ({"layers": ["bn"]}, "layers"),
        ({"model": MODEL + b"!"}, "model"),
    ],
)
def test_resume_rejects_different_options(
    client: Calls, change: dict[str, Any], named: str
) -> None:
    opened = client.create(client.upload(MODEL).id)
    options = {"model": MODEL, "progress": False, "resume": opened.id, **change}
    with pytest.raises(ConflictError, match=f"different {named}"):
        client.recalibrate(options.pop("model"), stream(), **options)


def test_resume_needs_no_model(client: Calls) -> None:
    opened = client.create(client.upload(MODEL).id)
    batches = stream()
    result = client.recalibrate(None, batches, progress=False, resume=opened.id)
    check_statistics(result, batches)


def test_model_is_required_without_resume(client: Calls) -> None:
    with pytest.raises(OptionError, match="model is required"):
        client.recalibrate(None, stream(), progress=False)


def test_resume_of_sealed_stream_only_waits(client: Calls, server: ClientServer) -> None:
    server.executor.hold = True
    with pytest.raises(TimedOut) as caught:
        client.recalibrate(MODEL, stream(), progress=False, timeout=3)
    server.executor.hold = False
    server.transport.requests.clear()
    resume = caught.value.recalibration_id
    assert client.recalibrate(MODEL, iter(()), progress=False, resume=resume).model
    assert server.sent == []


def test_failing_loader_names_recalibration(client: Calls, server: ClientServer) -> None:
    def broken() -> Iterator[Batch]:
        yield stream()[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        client.recalibrate(MODEL, broken(), progress=False)
    assert server.id in caught.value.__notes__[0]


def test_failed_run_has_a_typed_cause(client: Calls, server: ClientServer) -> None:
    server.executor.failure = {
        "code": "batch-not-finite",
        "detail": "batch 2, input 'x' holds NaN",
        "batch": 2,
        "input": "x",
    }
    with pytest.raises(RecalibrationFailed, match="holds NaN") as caught:
        client.recalibrate(MODEL, stream(), progress=False)
    cause = caught.value.__cause__
    assert isinstance(cause, BatchError)
    assert (cause.batch, cause.input, caught.value.code) == (2, "x", "batch-not-finite")


def test_waiting_for_cancelled_run_is_an_error(client: Calls) -> None:
    opened = client.create(client.upload(MODEL).id)
    assert client.cancel(opened.id).state == "cancelled"
    with pytest.raises(RecalibrationCancelled, match=opened.id):
        client.wait(opened.id)


def test_waiting_ends_in_time_and_run_continues(
    client: Calls, server: ClientServer, time: FakeTime
) -> None:
    server.executor.hold = True
    with pytest.raises(TimedOut, match=r"(queued|running) after 30 s") as caught:
        client.recalibrate(MODEL, stream(), progress=False, timeout=30)
    assert caught.value.recalibration_id == server.id
    assert time.now <= 30
    assert server.state(server.id) in {"queued", "running"}


def test_polls_are_frequent_at_first_and_rare_later(
    client: Calls, server: ClientServer, time: FakeTime
) -> None:
    server.executor.hold = True
    with pytest.raises(TimedOut):
        client.recalibrate(MODEL, stream(), progress=False, timeout=60, poll=2.0)
    assert time.slept[0] == 0.05
    assert time.slept[-1] == 2.0


def test_polls_wait_at_the_server(client: Calls, server: ClientServer, time: FakeTime) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        time.now += seconds

    server.executor.hold = True
    server.transport.on_wait = wait
    with pytest.raises(TimedOut):
        client.recalibrate(MODEL, stream(), progress=False, timeout=200, poll=50.0)
    assert waited[0] == 0.05
    assert max(waited) == 20.0
    # The client pauses for what is beyond the server's longest wait.
    assert time.slept[-1] == pytest.approx(30.0, rel=1e-9)
    assert time.now <= 200


@pytest.mark.parametrize("kind", [played, played_async])
def test_token_is_sent(
    kind: Callable[..., Client | AsyncClient], tmp_path: Path, time: FakeTime
) -> None:
    token = "s3cret"
    digest = hashlib.sha256(token.encode()).hexdigest()
    with client_server(tmp_path / "server", tokens=digest) as server:
        transport = server.transport
        assert calls_of(kind(transport, time, token=token)).models() == ()
        with pytest.raises(AccessError, match="token"):
            calls_of(kind(transport, time)).models()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("token", ["", " x", "a\nb", "é"])
def test_invalid_token_is_an_error(kind: Callable[..., object], token: str) -> None:
    with pytest.raises(OptionError, match="token"):
        kind(URL, token)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["gpu", "ftp://host", "http://", ""])
def test_address_without_scheme_is_an_error(kind: Callable[..., object], url: str) -> None:
    with pytest.raises(OptionError, match="write it like"):
        kind(url)


def test_invalid_model_is_a_model_error(client: Calls) -> None:
    with pytest.raises(ModelError, match="not an ONNX file") as caught:
        client.recalibrate(b"bad", stream(), progress=False)
    assert caught.value.code == "model-invalid"


def test_missing_model_file_is_an_error(
    client: Calls, server: ClientServer, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        client.recalibrate(tmp_path / "none.onnx", stream(), progress=False)
    assert server.transport.requests == []


def test_error_for_another_object_names_its_type(client: Calls) -> None:
    with pytest.raises(ModelError, match="got dict"):
        client.recalibrate({}, stream(), progress=False)


def test_module_cannot_be_uploaded_directly(client: Calls) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ModelError, match="Linear must be exported first"):
        client.upload(torch.nn.Linear(1, 1))


def test_module_is_exported_with_first_batch(client: Calls, server: ClientServer) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    server.executor.inputs = ("input",)
    batches = stream()
    result = client.recalibrate(module, batches, progress=False)
    check_statistics(result, batches)
    assert b"BatchNormalization" in result.model
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training


def test_unknown_recalibration_is_not_found(client: Calls) -> None:
    with pytest.raises(NotFoundError, match="rc_nope"):
        client.status("rc_nope")


def test_id_cannot_lead_to_another_path(client: Calls, server: ClientServer) -> None:
    with pytest.raises(NotFoundError):
        client.status("../models")
    assert server.transport.requests == ["GET /v1/recalibrations/../models"]


def test_other_server_at_the_address(client: Calls, server: ClientServer) -> None:
    server.transport.faults = [Fault(kind="page", status=200, times=1000)]
    with pytest.raises(UnexpectedResponseError, match="bnrecal server"):
        client.status("rc_00")


def test_delete_after_a_lost_response(client: Calls, server: ClientServer) -> None:
    opened = client.create(client.upload(MODEL).id)
    server.transport.faults = [Fault(kind="lose", where="DELETE")]
    client.delete(opened.id)
    with pytest.raises(NotFoundError):
        client.delete(opened.id)


def test_models_are_listed_and_deleted(client: Calls) -> None:
    model = client.upload(MODEL)
    assert client.models() == (model,)
    assert model.inputs[0].shape == ("N", 3)
    assert model.layers[0].name == "bn1"
    client.delete_model(model.id)
    assert client.models() == ()


def test_single_steps_make_a_whole_run(client: Calls) -> None:
    batches = stream()
    model = client.upload(MODEL)
    opened = client.create(model.id, key="my-key")
    assert client.create(model.id, key="my-key").id == opened.id
    for index, batch in enumerate(batches):
        client.send(opened.id, index, {"x": batch})
    assert [stored.index for stored in client.received(opened.id)] == [0, 1, 2, 3]
    with pytest.raises(ConflictError) as caught:
        client.start(opened.id, 6)
    assert caught.value.code == "batches-missing"
    assert caught.value.problem is not None
    assert caught.value.problem.members["missing"] == [4, 5]
    client.start(opened.id, 4)
    client.start(opened.id, 4)
    assert client.wait(opened.id).state == "succeeded"
    check_statistics(client.fetch(opened.id), batches)


def test_fetching_before_the_end_is_a_conflict(client: Calls) -> None:
    opened = client.create(client.upload(MODEL).id)
    with pytest.raises(ConflictError) as caught:
        client.fetch(opened.id)
    assert caught.value.code == "recalibration-not-finished"


def test_ctrl_c_leaves_resumable_recalibration(server: ClientServer, time: FakeTime) -> None:
    batches = stream()

    def interrupted() -> Iterator[Batch]:
        yield from batches[:2]
        raise KeyboardInterrupt

    client = played(server.transport, time)
    with pytest.raises(Interrupted) as caught:
        client.recalibrate(MODEL, interrupted(), progress=False)
    assert caught.value.recalibration_id == server.id
    assert sorted(server.stored(server.id)) == [0, 1]
    result = client.recalibrate(MODEL, batches, progress=False, resume=server.id)
    check_statistics(result, batches)


def test_async_stream_needs_async_client(server: ClientServer, time: FakeTime) -> None:
    async def batches() -> Any:
        yield stream()[0]

    with pytest.raises(OptionError, match="AsyncClient"):
        played(server.transport, time).recalibrate(MODEL, batches(), progress=False)
    result = calls_of(played_async(server.transport, time)).recalibrate(
        MODEL, batches(), progress=False
    )
    check_statistics(result, stream(1))


def test_client_inside_a_running_event_loop(server: ClientServer, time: FakeTime) -> None:
    async def notebook_cell() -> None:
        result = played(server.transport, time).recalibrate(MODEL, stream(), progress=False)
        check_statistics(result, stream())

    asyncio.run(notebook_cell())
