from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from fastapi import routing

from service.app import create_app
from service.recalibrations import runs
from service.settings import Settings
from service.workers.protocol import Job, MeasuredLayer, OnProgress, Outcome, Progress
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api
from tests.support.service_loop import LoopTransport, serving
from tests.support.waiting import until


def read(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            events.append(fields | {"data": json.loads(fields["data"])})
    return events


def stream_events(api: Api, name: str, chunks: list[bytes]) -> None:
    """Append the parts of an event stream as they arrive."""
    transport = api.http._transport
    assert isinstance(transport, LoopTransport)
    transport.stream(api.http.build_request("GET", f"/v1/recalibrations/{name}/events"), chunks)


def test_events_report_every_change(api: Api) -> None:
    name = api.finished()
    response = api.get(name, "/events")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = read(response.text)
    states = [one["data"]["state"] for one in events if one["event"] == "state"]
    assert states == ["open", "sealed", "queued", "running", "succeeded"]
    phases = [one["data"]["phase"] for one in events if one["event"] == "progress"]
    assert phases == ["reading", "verifying"]
    assert [int(one["id"]) for one in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"] == api.get(name).json()


def test_events_resume_after_last_event_id(api: Api) -> None:
    name = api.finished()
    everything = read(api.get(name, "/events").text)
    rest = read(api.get(name, "/events", **{"Last-Event-ID": everything[2]["id"]}).text)
    assert rest == everything[3:]


def test_events_arrive_during_the_run(api: Api, executor: FakeExecutor) -> None:
    executor.hold = True
    name = api.open()
    api.put(name, 0)
    seen: list[str] = []
    listener = threading.Thread(target=lambda: seen.append(api.get(name, "/events").text))
    listener.start()
    api.start(name, 1)
    api.wait(name, "running")
    api.http.post(f"/v1/recalibrations/{name}/cancel")
    listener.join(60)
    states = [one["data"]["state"] for one in read(seen[0]) if one["event"] == "state"]
    assert states == ["open", "sealed", "queued", "running", "cancelled"]


def test_event_stream_is_not_cached(api: Api) -> None:
    response = api.get(api.finished(), "/events")
    assert "no-store" in response.headers["Cache-Control"]
    assert response.headers["X-Accel-Buffering"] == "no"


def test_idle_event_stream_sends_pings(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_PING_INTERVAL", 0.05)
    name = api.open()
    chunks: list[bytes] = []
    listener = threading.Thread(target=stream_events, args=(api, name, chunks))
    listener.start()
    until(lambda: b": ping\n\n" in b"".join(chunks))
    assert "bnrecal_event_streams 1.0" in api.http.get("/metrics").text
    api.http.post(f"/v1/recalibrations/{name}/cancel")
    listener.join(60)
    events = read(b"".join(chunks).decode())
    assert [one["data"]["state"] for one in events] == ["open", "cancelled"]
    assert "bnrecal_event_streams 0.0" in api.http.get("/metrics").text


def test_invalid_event_requests(api: Api) -> None:
    assert api.get("rc_0", "/events").status_code == 404
    response = api.get(api.open(), "/events", **{"Last-Event-ID": "x"})
    assert (response.status_code, response.json()["code"]) == (422, "request-invalid")


def test_wait_returns_at_the_end(api: Api, executor: FakeExecutor) -> None:
    executor.hold = True
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    api.wait(name, "running")
    seen: list[tuple[str, float]] = []

    def ask() -> None:
        began = time.monotonic()
        state = api.get(name, "?wait=20").json()["state"]
        seen.append((state, time.monotonic() - began))

    asker = threading.Thread(target=ask)
    asker.start()
    until(lambda: "bnrecal_requests_open 2.0" in api.http.get("/metrics").text)
    time.sleep(0.3)
    assert seen == []
    api.http.post(f"/v1/recalibrations/{name}/cancel")
    asker.join(60)
    ((state, seconds),) = seen
    assert state == "cancelled"
    assert 0.3 <= seconds < 20
    began = time.monotonic()
    assert api.get(name, "?wait=20").json()["state"] == "cancelled"
    assert time.monotonic() - began < 20


def test_wait_times_out(api: Api) -> None:
    name = api.open()
    began = time.monotonic()
    assert api.get(name, "?wait=0.3").json()["state"] == "open"
    assert 0.3 <= time.monotonic() - began < 20
    assert api.get("rc_0", "?wait=20").status_code == 404
    for value in ("-1", "20.1", "inf", "nan", "x", ""):
        assert api.get(name, f"?wait={value}").json()["code"] == "request-invalid"


LAYERS = [MeasuredLayer(name="bn1", drift=0.4), MeasuredLayer(name="n" * 900, drift=None)]
SHOWN = [{"name": "bn1", "drift": 0.4}, {"name": "n" * 300, "drift": None}]


def test_measured_layers_are_events_and_can_be_read(api: Api, executor: FakeExecutor) -> None:
    executor.layers = LAYERS
    name = api.finished()
    (event,) = [one for one in read(api.get(name, "/events").text) if one["event"] == "layers"]
    assert event["data"] == {"layers": SHOWN, "total": 2}
    assert api.get(name, "/layers").json() == event["data"]


def test_no_layer_is_measured_before_the_run(api: Api) -> None:
    assert api.get(api.open(), "/layers").json() == {"layers": [], "total": None}
    assert api.get("rc_0", "/layers").status_code == 404


class Measuring(FakeExecutor):
    """Executor that reports layers one by one; its first run crashes after half of them."""

    total = 40

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        count = self.total // 2 if self.deaths else self.total
        for done in range(count):
            # The first layer is measured twice, as one that a module calls twice.
            names = ["first", f"layer{done}"] if done == 1 else [f"layer{done}"]
            drift = 10.0 * self.runs + done
            await on_progress(
                Progress(
                    phase="measuring",
                    done=done,
                    total=self.total,
                    layers=tuple(MeasuredLayer(name=one, drift=drift) for one in names),
                    layers_total=self.total,
                )
            )
        return await super().run(job, on_progress)


def test_layers_between_two_progress_events_are_not_lost(settings: Settings) -> None:
    changed = settings.model_copy(update={"progress_interval_seconds": 3600.0})
    with serving(create_app(changed, executor=Measuring())) as http:
        api = Api(http)
        name = api.finished()
        events = read(api.get(name, "/events").text)
        found = [one["data"]["layers"] for one in events if one["event"] == "layers"]
        assert len(found) == 2  # at the start of each phase
        names = [one["name"] for part in found for one in part]
        assert names == ["layer0", "first", *(f"layer{n}" for n in range(1, 40))]


def test_new_attempt_measures_again(settings: Settings) -> None:
    executor = Measuring()
    executor.deaths = 1
    with serving(create_app(settings, executor=executor)) as http:
        api = Api(http)
        name = api.finished()
        assert api.get(name).json()["attempts"] == 2
        layers = api.get(name, "/layers").json()["layers"]
        assert {one["name"]: one["drift"] for one in layers} == {
            "first": 11.0,
            **{f"layer{n}": 10.0 + n for n in range(40)},
        }
        events = read(api.get(name, "/events").text)
        ids = [int(one["id"]) for one in events]
        assert ids == sorted(set(ids))
        begins = [
            place
            for place, one in enumerate(events)
            if one["event"] == "state" and one["data"]["state"] == "running"
        ]
        assert all(one["event"] != "layers" for one in events[: begins[-1]])


def test_worker_cannot_fill_the_ledger_with_layers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_MEASURED_LAYERS", 7)
    with serving(create_app(settings, executor=Measuring())) as http:
        api = Api(http)
        assert len(api.get(api.finished(), "/layers").json()["layers"]) == 7
