from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta

import pytest

from service import clock
from service.recalibrations.events import seconds_left
from service.settings import Settings
from service.workers.protocol import Job, OnProgress, Outcome, Progress
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer


class Steady(FakeExecutor):
    """Executor whose run has ten steps of `step_seconds` each."""

    step_seconds = 0.15

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        for done in range(11):
            await on_progress(Progress(phase="reading", done=done, total=None))
            await asyncio.sleep(self.step_seconds)
        return await super().run(job, on_progress)


@pytest.fixture
def executor() -> FakeExecutor:
    return Steady()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"progress_interval_seconds": 0.0})


def events(api: Api, name: str, **headers: str) -> list[dict[str, object]]:
    text = api.get(name, "/events", **headers).text
    return [
        json.loads(line.removeprefix("data: "))
        for line in text.splitlines()
        if line.startswith("data: ")
    ]


def test_seconds_left_follows_the_rate(start_server: StartServer) -> None:
    api = start_server()
    name = api.finished(batches=10)
    reports = [event["progress"] for event in events(api, name)]
    left = [
        (one["done"], one["seconds_left"])
        for one in reports
        if isinstance(one, dict) and one["phase"] == "reading" and one["seconds_left"] is not None
    ]
    assert len(left) >= 5
    for done, seconds in left:
        # A step takes at least 150 ms; a busy machine only adds to it.
        assert 0.9 * (10 - done) * Steady.step_seconds - 0.1 <= seconds <= 20.0
    assert left[-1] == (10, 0.0)
    assert left[0][1] > 0
    assert events(api, name, **{"Last-Event-ID": "0"})[1:] == events(api, name)[1:]
    ended = api.get(name).json()["progress"]
    assert ended["seconds_left"] is None


def test_total_defaults_to_stream_length(
    start_server: StartServer,
) -> None:
    api = start_server()
    name = api.finished(batches=10)
    totals = {
        one["progress"]["total"]  # type: ignore[index]
        for one in events(api, name)
        if one["progress"] and one["phase"] == "reading"
    }
    assert totals == {10}


@pytest.mark.parametrize(
    ("first", "done", "total", "expected"),
    [(0, 5, 10, 10.0), (5, 10, 20, 20.0), (0, 10, 10, 0.0), (0, 0, 10, None), (0, 5, None, None)],
)
def test_estimate_extrapolates_the_rate(
    api: Api, first: int, done: int, total: int | None, expected: float | None
) -> None:
    from dataclasses import replace

    from service.repositories import recalibrations as store
    from service.repositories.records import Recalibration

    name = api.open()
    context = api.http._transport._inner.app.state.context  # type: ignore[attr-defined]
    found: Recalibration = asyncio.run_coroutine_threadsafe(
        context.ledger.read(lambda tx: store.get(tx, name)),
        api.http._transport._loop,  # type: ignore[attr-defined]
    ).result(10)
    begun = replace(found, phase_began="2026-01-01T00:00:00.000Z", phase_first=first)
    step = Progress(phase="reading", done=done, total=total)
    assert seconds_left(begun, step, "2026-01-01T00:00:10.000Z") == expected
    assert clock.now() > "2026"


def test_new_attempt_restarts_the_phase(
    api: Api, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hour between two attempts must not count as time of the phase."""
    executor.deaths = 1
    real = clock.now

    def now() -> str:
        late = timedelta(hours=0 if executor.deaths else 1)
        return clock.to_text(datetime.fromisoformat(real()) + late)

    monkeypatch.setattr(clock, "now", now)
    name = api.finished(batches=10)
    assert api.get(name).json()["attempts"] == 2
    reports = [event["progress"] for event in events(api, name)]
    left = [one["seconds_left"] for one in reports if isinstance(one, dict) and one["seconds_left"]]
    assert len(left) >= 10
    assert max(left) < 300
