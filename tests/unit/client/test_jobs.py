"""Jobs: submitting without waiting, finding again, listing, and the connection's options."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bnrecal_client import (
    AsyncClient,
    Client,
    ConflictError,
    NotFoundError,
    OptionError,
    RecalibrationCancelled,
    VerdictError,
)
from tests.support.client_server import MODEL, ClientServer, Fault
from tests.support.fake_time import FakeTime
from tests.support.played_clients import (
    URL,
    Calls,
    check_statistics,
    played,
    played_async,
    stream,
)

REJECTED: dict[str, Any] = {
    "code": "do-not-deploy",
    "sentence": "Keep the source model.",
    "reasons": [],
    "next_steps": [],
}


def test_submit_returns_before_the_end(server: ClientServer, time: FakeTime) -> None:
    server.executor.hold = True
    with played(server.transport, time) as client:
        job = client.submit(MODEL, stream())
        assert (job.id, job.url) == (server.id, f"{URL}/v1/recalibrations/{server.id}")
        assert job.status().state in {"queued", "running"}
        assert repr(job).startswith(f"<Job {job.id}: ")
        server.executor.hold = False
        result = job.result()
        check_statistics(result, stream())
        assert job.state.state == "succeeded"
        assert client.job(job.id).wait().id == job.id
        assert len(job.received()) == len(stream())
        with pytest.raises(ConflictError):
            job.cancel()
        job.delete()
    assert server.recalibrations == []


def test_async_job(server: ClientServer, time: FakeTime) -> None:
    async def whole() -> None:
        async with played_async(server.transport, time) as client:
            job = await client.submit(MODEL, stream())
            assert repr(job).startswith(f"<AsyncJob {job.id}: ")
            check_statistics(await job.result(), stream())
            again = await client.job(job.id)
            assert (await again.status()).state == "succeeded"
            assert len(await again.received()) == len(stream())
            assert [one.id for one in await client.jobs()] == [job.id]
            with pytest.raises(ConflictError):
                await again.cancel()
            await again.delete()

    asyncio.run(whole())
    assert server.recalibrations == []


def test_unknown_job_fails_at_once(client: Calls) -> None:
    with pytest.raises(NotFoundError):
        client.job("rc_nope")


def test_jobs_are_listed_newest_first(server: ClientServer, time: FakeTime) -> None:
    with played(server.transport, time) as client:
        ids = [client.submit(MODEL, stream(count)).id for count in (1, 2, 3)]
        assert [job.id for job in client.jobs()] == ids[::-1]
        assert [job.id for job in client.jobs(search=ids[1])] == [ids[1]]
        assert client.jobs(search="no such text") == ()


def test_name_of_a_job(server: ClientServer, time: FakeTime) -> None:
    with played(server.transport, time) as client:
        job = client.submit(MODEL, stream(), name="the new camera", tags=["nightly", "ß"])
        client.submit(MODEL, stream())
        assert (job.name, job.tags) == ("the new camera", ("nightly", "ß"))
        assert "'the new camera'" in repr(job)
        assert "the new camera" in job._repr_html_()
        for text in ("Camera", "nightly", "ß"):
            assert [one.id for one in client.jobs(search=text)] == [job.id]
        with pytest.raises(OptionError, match="leave them out"):
            client.submit(MODEL, stream(), name="other", resume=job.id)
        assert client.create(client.upload(MODEL).id, name="third").name == "third"


def test_jobs_are_searched_by_the_server() -> None:
    asked: list[httpx.QueryParams] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params)
        return httpx.Response(200, json={"items": [], "next": "7" if len(asked) == 1 else None})

    with Client(URL, transport=httpx.MockTransport(answer)) as client:
        assert client.jobs(search="100 %") == ()
    assert [params["search"] for params in asked] == ["100 %"] * 2
    assert "after" not in asked[0]
    assert asked[1]["after"] == "7"


def test_search_is_paged(server: ClientServer, time: FakeTime) -> None:
    server.transport.page = 2
    with played(server.transport, time) as client:
        model = client.upload(MODEL).id
        made = [client.create(model, name=f"camera {number}").id for number in range(5)]
        client.create(model, name="lamp")
        assert [job.id for job in client.jobs(search="camera")] == made[::-1]
        assert [job.name for job in client.jobs()] == [
            "lamp",
            *(f"camera {n}" for n in range(4, -1, -1)),
        ]


def test_cancelled_job_has_no_result(server: ClientServer, time: FakeTime) -> None:
    server.executor.hold = True
    with played(server.transport, time) as client:
        job = client.submit(MODEL, stream())
        assert job.cancel().state == job.state.state == "cancelled"
        with pytest.raises(RecalibrationCancelled):
            job.result()
        server.executor.hold = False


def test_result_of_a_job_has_source_and_skipped_samples(
    server: ClientServer, time: FakeTime, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL)
    batches = stream()
    batches[0][1, 0] = float("nan")
    with played(server.transport, time) as client:
        result = client.submit(model, batches, on_bad_sample="skip").result(unfolded=True)
    assert [skip.index for skip in result.skipped] == [1]
    assert result.report["skipped_samples"][0]["index"] == 1
    assert result.unfolded is not None
    with pytest.raises(OptionError, match="would be overwritten"):
        result.save(model)


def test_verdict_of_a_job(server: ClientServer, time: FakeTime) -> None:
    server.executor.verdict = REJECTED
    with played(server.transport, time) as client:
        job = client.submit(MODEL, stream())
        result = job.result()
        assert result.verdict is not None
        assert "do-not-deploy" in repr(result)
        with pytest.raises(VerdictError) as raised:
            job.result(on_verdict="raise")
        assert raised.value.result is not None
        with pytest.raises(OptionError, match="on_verdict"):
            job.result(on_verdict="rise")  # type: ignore[arg-type]


def test_html_of_a_job_is_escaped(server: ClientServer, time: FakeTime) -> None:
    with played(server.transport, time) as client:
        job = client.submit(MODEL, stream())
    shown = job._repr_html_()
    assert f'<a href="{URL}/v1/recalibrations/{job.id}">' in shown
    job._url = 'http://x/"><script>'
    assert "<script>" not in job._repr_html_()


def test_html_of_a_result_folds_its_report_away(client: Calls) -> None:
    result = client.recalibrate(MODEL, stream())
    shown = result._repr_html_()
    assert "<details><summary>Report</summary><iframe sandbox srcdoc=" in shown
    assert "&lt;h1&gt;report&lt;/h1&gt;" in shown
    assert len(repr(result)) < 150


def test_interrupted_upload_is_submitted_again(server: ClientServer, time: FakeTime) -> None:
    server.transport.faults = [Fault(kind="problem", where="PUT .*/2", status=500, retryable=False)]
    with played(server.transport, time) as client:
        with pytest.raises(Exception, match="injected") as raised:
            client.submit(MODEL, stream(), connections=1)
        name = raised.value.recalibration_id  # type: ignore[attr-defined]
        check_statistics(client.submit(MODEL, stream(), resume=name).result(), stream())


def test_client_without_a_server_names_the_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BNRECAL_SERVER", raising=False)
    for kind in (Client, AsyncClient):
        with pytest.raises(OptionError, match="set BNRECAL_SERVER"):
            kind()


def seen_by_a_client(**options: Any) -> httpx.Request:
    """Return the request that a client with these options sends."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"items": [], "next": None})

    with Client(transport=httpx.MockTransport(answer), **options) as client:
        assert client.models() == ()
    return requests[0]


def test_client_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("BNRECAL_SERVER", "http://gpu:9000/")
    monkeypatch.setenv("BNRECAL_TOKEN", "secret")
    request = seen_by_a_client(headers={"X-Team": "vision"})
    assert str(request.url) == "http://gpu:9000/v1/models?limit=1000"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-team"] == "vision"
    assert str(seen_by_a_client(url="http://other:1", token="t").url).startswith("http://other:1/")


def test_options_of_the_connection_reach_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    real: Callable[..., httpx.Client] = httpx.Client

    def spy(**options: Any) -> httpx.Client:
        given.append(options)
        return real(**options)

    monkeypatch.setattr(httpx, "Client", spy)
    context = ssl.create_default_context()
    Client(URL, timeout=7.5, verify=context, proxy="http://proxy:3128").close()
    (options,) = given
    assert options["timeout"] == httpx.Timeout(7.5, connect=5.0)
    assert (options["verify"], options["proxy"]) == (context, "http://proxy:3128")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"proxy": "nonsense://"}, "cannot be prepared"),
    ],
)
def test_invalid_options_of_the_connection(options: dict[str, Any], says: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(OptionError, match=says):
            kind(URL, **options)


def test_requests_and_states_are_logged(
    server: ClientServer, time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    server.transport.faults = [Fault(kind="refuse", where="POST .*/start")]
    with caplog.at_level(logging.DEBUG, "bnrecal_client"):
        played(server.transport, time).recalibrate(MODEL, stream())
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("DEBUG", f"PUT /v1/recalibrations/{server.id}/batches/0: 201") in found
    refused = f"POST /v1/recalibrations/{server.id}/start failed: connection refused"
    assert ("WARNING", refused) in found
    assert ("INFO", f"{server.id} started with 4 batches") in found
    assert ("INFO", f"{server.id}: succeeded") in found
    assert "Bearer" not in caplog.text
