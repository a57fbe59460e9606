"""What both clients do, against a server in memory: one class of tests, played by each client."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
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
from tests.support.fake_bnrecal import INPUT, MODEL, FakeServer, Fault
from tests.support.fake_time import FakeTime
from tests.support.played_clients import (
    URL,
    Verbs,
    check_statistics,
    played,
    played_async,
    stream,
    verbs_of,
    verbs_of_async,
)


class ClientBehaviour(ABC):
    server: FakeServer
    time: FakeTime

    @pytest.fixture(autouse=True)
    def _fresh(self) -> None:
        self.server = FakeServer()
        self.time = FakeTime()

    @abstractmethod
    def verbs(self, *, url: str = URL, token: str | None = None) -> Verbs:
        """Return a client of the server."""

    def test_a_stream_gives_statistics_model_and_report(self) -> None:
        batches = stream()
        result = self.verbs().recalibrate(MODEL, batches, progress=False)
        check_statistics(result, batches)
        assert result.model.startswith(b"folded ")
        assert result.unfolded is None
        assert result.report["stream"] == {"batches": 4}
        assert result.report_html == "<h1>report</h1>"
        assert result.recalibration_id == "rc_00"

    def test_the_unfolded_model_comes_on_request(self) -> None:
        result = self.verbs().recalibrate(MODEL, stream(), progress=False, unfolded=True)
        assert result.unfolded.startswith(b"unfolded ")

    def test_a_model_file_is_uploaded_from_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(MODEL * 100_000)
        result = self.verbs().recalibrate(path, stream(), progress=False)
        assert [len(model) for model in self.server.models.values()] == [len(MODEL) * 100_000]
        assert result.model

    def test_a_model_that_the_server_holds_is_not_sent_again(self) -> None:
        verbs = self.verbs()
        verbs.recalibrate(MODEL, stream(), progress=False)
        verbs.recalibrate(MODEL, stream(), progress=False)
        assert self.server.requests.count("POST /v1/models") == 1

    def test_a_model_message_is_known_by_its_shape(self) -> None:
        class Message:
            def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
                return MODEL

        assert self.verbs().upload(Message()).bytes == len(MODEL)

    def test_options_reach_the_server_in_their_json_form(self) -> None:
        self.verbs().recalibrate(
            MODEL,
            stream(),
            method="batch",
            estimator="prior:16",
            layers=["bn*", "!bn9"],
            progress=False,
        )
        assert self.server.recalibrations["rc_00"].options == {
            "method": "batch",
            "estimator": {"name": "prior", "samples": 16, "mixture": False},
            "layers": ["bn*", "!bn9"],
        }

    def test_the_stream_is_read_once_and_only_as_fast_as_it_is_sent(self) -> None:
        read: list[int] = []

        def lazily() -> Iterator[NDArray[np.float32]]:
            for index, batch in enumerate(stream()):
                sent = sum(line.startswith("PUT") for line in self.server.requests)
                read.append(index - sent)
                yield batch

        self.verbs().recalibrate(MODEL, lazily(), progress=False)
        assert read == [0, 0, 0, 0]

    def test_select_takes_the_input_out_of_a_pair(self) -> None:
        batches = stream()
        pairs = [(batch, "label") for batch in batches]
        result = self.verbs().recalibrate(MODEL, pairs, select=lambda pair: pair[0], progress=False)
        check_statistics(result, batches)

    def test_a_pair_without_select_says_what_to_do(self) -> None:
        with pytest.raises(BatchError, match="select=lambda item") as caught:
            self.verbs().recalibrate(MODEL, [(stream()[0], np.zeros(5))], progress=False)
        assert (caught.value.batch, caught.value.code) == (0, "batch-input")

    def test_dicts_and_tuples_reach_a_model_with_two_inputs(self) -> None:
        self.server = FakeServer(inputs=(INPUT, {**INPUT, "name": "a"}))
        first, second = stream(2)
        result = self.verbs().recalibrate(
            MODEL, [{"a": first, "x": second}, (second, first)], progress=False
        )
        check_statistics(result, [first, first])

    def test_one_array_for_two_inputs_is_refused_here(self) -> None:
        self.server = FakeServer(inputs=(INPUT, {**INPUT, "name": "a"}))
        with pytest.raises(BatchError, match="pass a dict with x, a"):
            self.verbs().recalibrate(MODEL, stream(), progress=False)

    def test_an_empty_stream_is_refused_before_start(self) -> None:
        with pytest.raises(InputError, match="empty") as caught:
            self.verbs().recalibrate(MODEL, [], progress=False)
        assert caught.value.code == "stream-empty"
        assert not any(line.endswith("/start") for line in self.server.requests)

    @pytest.mark.parametrize("batches", [np.zeros((4, 3)), {"x": np.zeros((4, 3))}, 3, "data"])
    def test_what_is_no_iterable_of_batches_is_refused(self, batches: object) -> None:
        with pytest.raises(OptionError, match="iterable of batches"):
            self.verbs().recalibrate(MODEL, batches, progress=False)

    def test_progress_names_each_phase_in_order(self) -> None:
        seen: list[Progress] = []
        self.verbs().recalibrate(MODEL, stream(), progress=seen.append)
        phases = list(dict.fromkeys(progress.phase for progress in seen))
        assert phases == ["model", "sending", "measuring", "succeeded", "fetching"]
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
            "GET /v1/recalibrations/rc_00$",
            "/statistics",
        ],
    )
    @pytest.mark.parametrize("kind", ["refuse", "lose", "problem", "page"])
    def test_any_request_survives_trouble_and_nothing_counts_twice(
        self, where: str, kind: str
    ) -> None:
        self.server.faults = [Fault(kind=kind, where=where, times=3)]
        batches = stream()
        result = self.verbs().recalibrate(MODEL, batches, progress=False)
        check_statistics(result, batches)
        assert list(self.server.recalibrations) == ["rc_00"]
        assert self.server.faults[0].times == 0

    def test_a_restart_in_the_middle_changes_nothing(self) -> None:
        undisturbed = self.verbs().recalibrate(MODEL, stream(), progress=False)
        self.server.faults = [
            Fault(kind="lose", where="PUT .*/batches/1"),
            Fault(kind="refuse", where="PUT .*/batches/1", times=12),
        ]
        disturbed = self.verbs().recalibrate(MODEL, stream(), progress=False)
        for name, values in undisturbed.statistics.items():
            assert values.tobytes() == disturbed.statistics[name].tobytes()

    def test_pauses_grow_up_to_a_ceiling(self) -> None:
        self.server.faults = [Fault(kind="refuse", where="PUT .*/0", times=8)]
        self.verbs().recalibrate(MODEL, stream(), progress=False)
        expected = [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
        np.testing.assert_allclose(self.time.slept[:8], expected, rtol=1e-12)

    def test_retry_after_is_waited_for(self) -> None:
        self.server.faults = [
            Fault(kind="problem", where="PUT .*/0", headers={"Retry-After": "17"}),
        ]
        self.verbs().recalibrate(MODEL, stream(), progress=False)
        assert self.time.slept[0] == 17.0

    def test_trouble_is_told_to_the_callback(self) -> None:
        self.server.faults = [Fault(kind="refuse", where="PUT .*/0")]
        seen: list[Progress] = []
        self.verbs().recalibrate(MODEL, stream(), progress=seen.append)
        assert [p.note for p in seen if p.note] == ["connection refused"]

    def test_patience_ends_and_the_error_names_the_recalibration(self) -> None:
        self.server.faults = [Fault(kind="refuse", where="PUT .*/1", times=1000)]
        with pytest.raises(ServerUnreachable, match="does not respond") as caught:
            self.verbs().recalibrate(MODEL, stream(), progress=False)
        assert caught.value.recalibration_id == "rc_00"
        assert 100 < self.time.now <= 120

    def test_a_wrong_address_is_noticed_within_seconds(self) -> None:
        self.server.faults = [Fault(kind="refuse", times=1000)]
        with pytest.raises(ServerUnreachable, match=re.escape(URL)):
            self.verbs().recalibrate(MODEL, stream(), progress=False)
        assert self.time.now <= 5

    def test_a_problem_that_is_final_is_not_tried_again(self) -> None:
        self.server.faults = [
            Fault(kind="problem", where="PUT", status=503, code="storage-full", retryable=False)
        ]
        with pytest.raises(LimitError, match="in trouble"):
            self.verbs().recalibrate(MODEL, stream(), progress=False)
        assert self.time.slept == []

    def test_too_many_requests_ends_as_the_limit_that_it_is(self) -> None:
        self.server.faults = [
            Fault(kind="problem", where="PUT", status=429, code="quota-exceeded", times=1000)
        ]
        with pytest.raises(LimitError) as caught:
            self.verbs().recalibrate(MODEL, stream(), progress=False)
        assert caught.value.problem is not None
        assert caught.value.problem.status == 429

    def test_a_damaged_upload_is_sent_again(self) -> None:
        self.server.faults = [
            Fault(kind="problem", where="PUT", status=400, code="digest-mismatch", retryable=None)
        ]
        batches = stream()
        check_statistics(self.verbs().recalibrate(MODEL, batches, progress=False), batches)

    def test_a_damaged_download_is_fetched_again(self) -> None:
        self.server.faults = [Fault(kind="damage", where="rc_00/model")]
        result = self.verbs().recalibrate(MODEL, stream(), progress=False)
        assert result.model == f"folded {next(iter(self.server.models))}".encode()

    def test_a_download_that_is_always_damaged_is_told_as_that(self) -> None:
        self.server.faults = [Fault(kind="damage", where="rc_00/model", times=1000)]
        with pytest.raises(UnexpectedResponseError, match=r"arrived damaged, \d+ times"):
            self.verbs().recalibrate(MODEL, stream(), progress=False)

    def test_resume_sends_only_what_is_missing(self) -> None:
        self.server.page = 2
        self.server.faults = [Fault(kind="refuse", where="PUT .*/4", times=1000)]
        batches = stream(7)
        with pytest.raises(ServerUnreachable) as caught:
            self.verbs().recalibrate(MODEL, batches, progress=False)
        self.server.faults = []
        del self.server.recalibrations["rc_00"].batches[1]
        self.server.requests.clear()
        result = self.verbs().recalibrate(
            MODEL, batches, progress=False, resume=caught.value.recalibration_id
        )
        sent = [line.rsplit("/", 1)[1] for line in self.server.requests if "PUT" in line]
        # 5 and 6 may have overtaken 4, but are sent only once.
        assert {"1", "4"} <= set(sent) <= {"1", "4", "5", "6"}
        assert len(sent) == len(set(sent))
        check_statistics(result, batches)

    def test_resume_refuses_other_data(self) -> None:
        verbs = self.verbs()
        model = verbs.upload(MODEL)
        opened = verbs.create(model.id)
        verbs.send(opened.id, 0, {"x": stream()[1]})
        with pytest.raises(ConflictError, match="batch 0 differs") as caught:
            verbs.recalibrate(MODEL, stream(), progress=False, resume=opened.id)
        assert caught.value.code == "batch-conflict"
        assert self.server.recalibrations[opened.id].state == "open"

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"method": "batch"}, "method"),
            ({"estimator": "shrink"}, "estimator name"),
            ({"layers": ["bn"]}, "layers"),
            ({"model": MODEL + b"!"}, "model"),
        ],
    )
    def test_resume_refuses_other_options(self, change: dict[str, Any], named: str) -> None:
        verbs = self.verbs()
        opened = verbs.create(verbs.upload(MODEL).id)
        options = {"model": MODEL, "progress": False, "resume": opened.id, **change}
        with pytest.raises(ConflictError, match=f"different {named}"):
            verbs.recalibrate(options.pop("model"), stream(), **options)

    def test_resume_needs_no_model(self) -> None:
        verbs = self.verbs()
        opened = verbs.create(verbs.upload(MODEL).id)
        batches = stream()
        check_statistics(
            verbs.recalibrate(None, batches, progress=False, resume=opened.id), batches
        )

    def test_without_model_there_must_be_something_to_resume(self) -> None:
        with pytest.raises(OptionError, match="model is required"):
            self.verbs().recalibrate(None, stream(), progress=False)

    def test_resume_of_a_sealed_stream_only_waits(self) -> None:
        self.server.never_ends = True
        with pytest.raises(TimedOut) as caught:
            self.verbs().recalibrate(MODEL, stream(), progress=False, timeout=3)
        self.server.never_ends = False
        self.server.requests.clear()
        result = self.verbs().recalibrate(
            MODEL, iter(()), progress=False, resume=caught.value.recalibration_id
        )
        assert result.model
        assert not any(line.startswith("PUT") for line in self.server.requests)

    def test_a_failing_loader_says_what_can_be_resumed(self) -> None:
        def broken() -> Iterator[NDArray[np.float32]]:
            yield stream()[0]
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone") as caught:
            self.verbs().recalibrate(MODEL, broken(), progress=False)
        assert "rc_00" in caught.value.__notes__[0]

    def test_a_failed_run_names_its_cause(self) -> None:
        self.server.fails_with = {
            "code": "batch-not-finite",
            "detail": "batch 2, input 'x' holds NaN",
            "batch": 2,
            "input": "x",
        }
        with pytest.raises(RecalibrationFailed, match="holds NaN") as caught:
            self.verbs().recalibrate(MODEL, stream(), progress=False)
        cause = caught.value.__cause__
        assert isinstance(cause, BatchError)
        assert (cause.batch, cause.input, caught.value.code) == (2, "x", "batch-not-finite")

    def test_a_cancelled_run_says_so(self) -> None:
        verbs = self.verbs()
        opened = verbs.create(verbs.upload(MODEL).id)
        assert verbs.cancel(opened.id).state == "cancelled"
        with pytest.raises(RecalibrationCancelled, match=opened.id):
            verbs.wait(opened.id)

    def test_waiting_ends_in_time_and_the_run_goes_on(self) -> None:
        self.server.never_ends = True
        with pytest.raises(TimedOut, match="queued after 30 s") as caught:
            self.verbs().recalibrate(MODEL, stream(), progress=False, timeout=30)
        assert caught.value.recalibration_id == "rc_00"
        assert self.time.now <= 30
        assert self.server.recalibrations["rc_00"].state == "queued"

    def test_polling_is_quick_at_first_and_slow_later(self) -> None:
        self.server.never_ends = True
        with pytest.raises(TimedOut):
            self.verbs().recalibrate(MODEL, stream(), progress=False, timeout=60, poll=2.0)
        assert self.time.slept[0] == 0.05
        assert self.time.slept[-1] == 2.0

    def test_pauses_are_spent_at_a_server_that_waits(self) -> None:
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            self.time.now += seconds

        self.server.never_ends = True
        self.server.on_wait = wait
        with pytest.raises(TimedOut):
            self.verbs().recalibrate(MODEL, stream(), progress=False, timeout=200, poll=50.0)
        assert waited[0] == 0.05
        assert max(waited) == 20.0
        # Beyond what a server waits for, we pause.
        assert self.time.slept[-1] == pytest.approx(30.0, rel=1e-9)
        assert self.time.now <= 200

    def test_a_token_is_sent_and_a_missing_one_is_told(self) -> None:
        self.server.token = "s3cret"
        assert self.verbs(token="s3cret").models() == ()
        with pytest.raises(AccessError, match="token is needed"):
            self.verbs().models()

    @pytest.mark.parametrize("token", ["", " x", "a\nb", "é"])
    def test_a_token_that_fits_no_header_is_refused(self, token: str) -> None:
        with pytest.raises(OptionError, match="token"):
            self.verbs(token=token)

    @pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", ""])
    def test_an_address_without_a_scheme_is_refused(self, url: str) -> None:
        with pytest.raises(OptionError, match="write it like"):
            self.verbs(url=url)

    def test_a_file_that_is_no_model_is_the_models_fault(self) -> None:
        with pytest.raises(ModelError, match="not an ONNX file") as caught:
            self.verbs().recalibrate(b"text", stream(), progress=False)
        assert caught.value.code == "model-invalid"

    def test_a_missing_model_file_is_told_before_any_request(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="cannot be read"):
            self.verbs().recalibrate(tmp_path / "none.onnx", stream(), progress=False)
        assert self.server.requests == []

    def test_an_object_that_is_no_model_is_told_by_its_type(self) -> None:
        with pytest.raises(ModelError, match="got dict"):
            self.verbs().recalibrate({}, stream(), progress=False)

    def test_a_module_cannot_be_uploaded_as_it_is(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(ModelError, match="Linear has to be exported first"):
            self.verbs().upload(torch.nn.Linear(1, 1))

    def test_a_module_is_exported_here_with_the_first_batch_as_its_example(self) -> None:
        torch = pytest.importorskip("torch")
        module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        before = {name: value.clone() for name, value in module.state_dict().items()}
        self.server = FakeServer(inputs=({**INPUT, "name": "input"},), magic=b"")
        batches = stream()
        result = self.verbs().recalibrate(module, batches, progress=False)
        check_statistics(result, batches)
        (model,) = self.server.models.values()
        assert b"BatchNormalization" in model
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert module.training

    def test_an_unknown_recalibration_is_not_found(self) -> None:
        with pytest.raises(NotFoundError, match="rc_nope"):
            self.verbs().status("rc_nope")

    def test_an_id_cannot_name_another_path(self) -> None:
        with pytest.raises(NotFoundError):
            self.verbs().status("../models")
        assert self.server.requests == ["GET /v1/recalibrations/../models"]

    def test_another_program_at_the_address_is_noticed(self) -> None:
        self.server.faults = [Fault(kind="page", status=200, times=1000)]
        with pytest.raises(UnexpectedResponseError, match="bnrecal server"):
            self.verbs().status("rc_00")

    def test_a_delete_whose_answer_was_lost_succeeds(self) -> None:
        verbs = self.verbs()
        opened = verbs.create(verbs.upload(MODEL).id)
        self.server.faults = [Fault(kind="lose", where="DELETE")]
        verbs.delete(opened.id)
        with pytest.raises(NotFoundError):
            verbs.delete(opened.id)

    def test_models_are_listed_and_deleted(self) -> None:
        verbs = self.verbs()
        model = verbs.upload(MODEL)
        assert verbs.models() == (model,)
        assert model.inputs[0].shape == ("n", 3)
        assert model.layers[0].name == "bn"
        verbs.delete_model(model.id)
        assert verbs.models() == ()

    def test_the_lower_verbs_make_a_whole_run(self) -> None:
        verbs = self.verbs()
        batches = stream()
        opened = verbs.create(verbs.upload(MODEL).id, key="my-key")
        assert verbs.create(next(iter(self.server.models)), key="my-key").id == opened.id
        for index, batch in enumerate(batches):
            verbs.send(opened.id, index, {"x": batch})
        assert [stored.index for stored in verbs.received(opened.id)] == [0, 1, 2, 3]
        with pytest.raises(ConflictError, match="missing") as caught:
            verbs.start(opened.id, 6)
        assert caught.value.problem is not None
        assert caught.value.problem.members["missing"] == [4, 5]
        verbs.start(opened.id, 4)
        verbs.start(opened.id, 4)
        assert verbs.wait(opened.id).state == "succeeded"
        check_statistics(verbs.fetch(opened.id), batches)

    def test_results_before_their_time_are_a_conflict(self) -> None:
        verbs = self.verbs()
        opened = verbs.create(verbs.upload(MODEL).id)
        with pytest.raises(ConflictError, match="it is open"):
            verbs.fetch(opened.id)


class TestClient(ClientBehaviour):
    def verbs(self, *, url: str = URL, token: str | None = None) -> Verbs:
        return verbs_of(played(self.server.transport, self.time, url=url, token=token))

    def test_a_handle_speaks_for_one_recalibration(self) -> None:
        with Client(URL, transport=self.server.transport, sleep=self.time.sleep) as client:
            opened = client.create(client.upload(MODEL).id)
            client.send(opened.id, 0, {"x": stream()[0]})
            handle = client.attach(opened.id)
            assert len(handle.received()) == 1
            client.start(opened.id, 1)
            assert handle.wait().state == handle.status().state == "succeeded"
            assert handle.fetch().recalibration_id == opened.id
            assert handle.cancel().id == opened.id
            handle.delete()
        assert self.server.recalibrations == {}

    def test_ctrl_c_leaves_a_resumable_recalibration(self) -> None:
        batches = stream()

        def interrupted() -> Iterator[NDArray[np.float32]]:
            yield from batches[:2]
            raise KeyboardInterrupt

        with pytest.raises(Interrupted, match="rc_00") as caught:
            self.verbs().recalibrate(MODEL, interrupted(), progress=False)
        assert sorted(self.server.recalibrations["rc_00"].batches) == [0, 1]
        result = self.verbs().recalibrate(
            MODEL, batches, progress=False, resume=caught.value.recalibration_id
        )
        check_statistics(result, batches)

    def test_an_asynchronous_stream_needs_the_other_client(self) -> None:
        async def batches() -> Any:
            yield stream()[0]

        with pytest.raises(OptionError, match="AsyncClient"):
            self.verbs().recalibrate(MODEL, batches(), progress=False)


class TestAsyncClient(ClientBehaviour):
    def verbs(self, *, url: str = URL, token: str | None = None) -> Verbs:
        return verbs_of_async(self.client(url, token))

    def client(self, url: str = URL, token: str | None = None) -> AsyncClient:
        return played_async(self.server.transport, self.time, url=url, token=token)

    def test_an_asynchronous_stream_is_read(self) -> None:
        async def batches() -> Any:
            for batch in stream():
                yield batch

        check_statistics(self.verbs().recalibrate(MODEL, batches(), progress=False), stream())

    def test_a_handle_speaks_for_one_recalibration(self) -> None:
        async def whole() -> None:
            async with self.client() as client:
                opened = await client.create((await client.upload(MODEL)).id)
                await client.send(opened.id, 0, {"x": stream()[0]})
                handle = client.attach(opened.id)
                assert len(await handle.received()) == 1
                await client.start(opened.id, 1)
                assert (await handle.wait()).state == (await handle.status()).state == "succeeded"
                assert (await handle.fetch()).recalibration_id == opened.id
                assert (await handle.cancel()).id == opened.id
                await handle.delete()

        asyncio.run(whole())
        assert self.server.recalibrations == {}
