"""Import by reference, from the callers' side: lines of a response, errors, retries."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from bnrecal_client import (
    AccessError,
    BatchError,
    ImportFailed,
    OptionError,
    ServerUnreachable,
    UnexpectedResponseError,
)
from bnrecal_client._http.importing import ObjectUrls, complete, urls_of
from bnrecal_client.models import Import, ImportedObject, Progress
from tests.support.fake_time import FakeTime
from tests.support.played_clients import Calls, calls_of, played, played_async
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]

URLS = "s3://bucket/{0..3}.npy"
FAULT = {"code": "batch-malformed", "detail": "not a batch", "status": 422, "retryable": False}
BUSY = {"code": "capacity-error", "detail": "the store is slow", "status": 503, "retryable": True}


def stored(index: int, status: str = "stored") -> dict[str, Any]:
    url = f"s3://bucket/{index}.npy"
    return {"url": url, "index": index, "status": status, "samples": 2, "bytes": 9, "sha256": "0"}


def failed(index: int, error: dict[str, Any]) -> dict[str, Any]:
    return {
        "url": f"s3://bucket/{index}.npy",
        "index": index,
        "status": "failed",
        "error": error,
    }


def summary(remaining: int = 0) -> dict[str, Any]:
    return {"stored": 0, "present": 0, "failed": 0, "remaining": remaining}


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response of lines; the connection breaks after them where the summary is missing."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self._broken = not lines or "url" in lines[-1]

    def __iter__(self) -> Iterator[bytes]:
        middle = len(self._text) // 2
        yield self._text[:middle]
        yield self._text[middle:]
        if self._broken:
            raise httpx.ReadError("the connection was lost")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


Response = list[dict[str, Any]] | httpx.Response


class Server:
    """Responds to imports with what a test prepares.

    Attributes:
        responses: lines, or whole responses, in turn; the last one is repeated.
        requests: the JSON bodies that arrived, each with its path.
    """

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append({"path": request.url.path, **json.loads(request.content)})
        found = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(found, httpx.Response):
            return found
        headers = {"Content-Type": "application/x-ndjson"}
        return httpx.Response(200, headers=headers, stream=Body(found))


@pytest.fixture
def remote() -> Server:
    return Server()


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest, remote: Server) -> Calls:
    network = httpx.MockTransport(remote)
    play: Callable[..., Any] = played if request.param == "sync" else played_async
    return calls_of(play(network, FakeTime()))


def test_objects_are_typed_values_in_stream_order(caller: Calls, remote: Server) -> None:
    lines = [stored(2), stored(0, "present"), failed(1, FAULT), stored(3), summary()]
    remote.responses = [lines]
    steps: list[Progress] = []
    found = caller.import_batches("rc_1", URLS, first=0, progress=steps.append)
    assert [one.status for one in found.objects] == ["present", "failed", "stored", "stored"]
    assert found.objects[3].samples == 2
    (broken,) = found.failed
    assert broken.url == "s3://bucket/1.npy"
    assert isinstance(broken.error, BatchError)
    assert broken.error.code == "batch-malformed"
    assert found.objects[0].error is None
    assert [step.done for step in steps] == [1, 2, 3]
    assert remote.requests == [
        {
            "path": "/v1/recalibrations/rc_1/batches:import",
            "urls": [URLS],
            "first": 0,
            "compare": False,
        }
    ]


def test_a_lost_connection_is_continued(caller: Calls, remote: Server) -> None:
    rest = [stored(0, "present"), stored(1, "present"), stored(2), stored(3), summary()]
    remote.responses = [[stored(0), stored(1)], [], rest]
    found = caller.import_batches("rc_1", URLS, source=True)
    assert [one.status for one in found.objects] == ["stored"] * 4
    assert len(remote.requests) == 3
    assert remote.requests[0]["path"].endswith("/source-batches:import")


def test_a_server_that_stops_responding_is_an_error(caller: Calls, remote: Server) -> None:
    remote.responses = [[stored(0)], []]
    with pytest.raises(ServerUnreachable):
        caller.import_batches("rc_1", URLS)


def test_retryable_errors_are_retried(caller: Calls, remote: Server) -> None:
    remote.responses = [
        [stored(0), failed(1, BUSY), summary()],
        [stored(0, "present"), failed(1, BUSY), summary()],
        [stored(0, "present"), stored(1), summary()],
    ]
    found = caller.import_batches("rc_1", URLS)
    assert [one.status for one in found.objects] == ["stored", "stored"]


def test_retries_end_with_the_time_of_the_policy(caller: Calls, remote: Server) -> None:
    remote.responses = [[failed(1, BUSY), summary()]]
    found = caller.import_batches("rc_1", URLS)
    assert isinstance(found.failed[0].error, ServerUnreachable)
    assert len(remote.requests) > 10


def test_a_server_that_shuts_down_is_asked_again(caller: Calls, remote: Server) -> None:
    remote.responses = [[stored(0), summary(remaining=1)], [stored(1), summary()]]
    assert caller.import_batches("rc_1", URLS).remaining == 0


def test_a_forbidden_url_is_an_access_error(caller: Calls, remote: Server) -> None:
    problem = {"code": "forbidden", "detail": "below no prefix", "status": 403}
    remote.responses = [httpx.Response(403, json=problem)]
    with pytest.raises(AccessError, match="below no prefix"):
        caller.import_batches("rc_1", URLS)


@pytest.mark.parametrize("line", [[1], {"url": 3}, {"surprise": 1}])
def test_other_lines_are_an_error(caller: Calls, remote: Server, line: Any) -> None:
    remote.responses = [[line, summary()]]
    with pytest.raises(UnexpectedResponseError, match="the response to an import has"):
        caller.import_batches("rc_1", URLS)


def test_many_urls_are_several_requests(caller: Calls, remote: Server) -> None:
    urls = [f"s3://bucket/{index}.npy" for index in range(450)]
    first = [stored(index) for index in range(400)]
    remote.responses = [
        [*first, summary()],
        [*(stored(index) for index in range(400, 450)), summary()],
    ]
    assert len(caller.import_batches("rc_1", urls).objects) == 450
    assert [(len(one["urls"]), one["first"]) for one in remote.requests] == [(400, 0), (50, 400)]
    # A limit that ends the first request leaves out the second.
    limit = {"code": "quota-exceeded", "detail": "too many", "status": 429, "retryable": False}
    remote.responses = [[*first[:10], failed(10, limit), summary(389)]]
    assert caller.import_batches("rc_1", urls).remaining == 389 + 50


def test_urls_are_recognized() -> None:
    assert urls_of("s3://b/x.npy") == ObjectUrls(("s3://b/x.npy",))
    assert urls_of(["s3://b/x.npy", "gs://b/{0..9}.npy"]) is not None
    for other in ("x.npy", [], [np.zeros(3)], ["s3://b/x.npy", np.zeros(3)], iter(["s3://b/x"])):
        assert urls_of(other) is None


def test_incomplete_imports_name_their_objects() -> None:
    objects = tuple(
        ImportedObject(url=f"s3://b/{n}", index=n, status="failed", error_document=FAULT)
        for n in range(5)
    )
    with pytest.raises(ImportFailed, match=r"5 of 7 objects .* 2 were not tried") as caught:
        complete(Import(objects=objects, remaining=2))
    assert caught.value.objects == objects
    assert isinstance(caught.value.__cause__, BatchError)
    assert "s3://b/3" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"select": lambda item: item},
        {"connections": 2},
        {"on_bad_sample": "skip"},
        {"evaluate": "batches"},
    ],
)
def test_options_of_batches_do_not_apply(client: Calls, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="not to URLs"):
        client.recalibrate(b"model", URLS, progress=False, **options)


def test_command_rejects_what_it_cannot_do(desk: Desk) -> None:
    for words, message in (
        ([URLS], "pass --server"),
        ([URLS, desk.data, "--server", "http://x"], "pass only one kind"),
        ([URLS, "--server", "http://x", "--limit", "3"], "--limit applies to data"),
    ):
        code, _, err = desk.run("recalibrate", desk.model, *words)
        assert code != 0
        assert message in err
