"""Files of batches without a row are removed by their age."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from service.app import create_app
from service.context import Context
from service.recalibrations import retention
from service.repositories import batches
from service.settings import Settings
from service.storage.blobs.protocol import Blobs
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api
from tests.support.service_loop import serving
from tests.support.waiting import until


@contextmanager
def serving_with_blobs(settings: Settings) -> Iterator[tuple[Api, Blobs]]:
    app = create_app(settings, executor=FakeExecutor())
    with ExitStack() as stack:
        api = Api(stack.enter_context(serving(app)))
        context: Any = app.state.context
        assert isinstance(context, Context)
        yield api, context.blobs


def leave_orphan(blobs: Blobs, name: str) -> str:
    draft = blobs.draft()
    draft.write(b"orphan")
    draft.commit(batches.key(name, "orphan.npy"))
    return "orphan.npy"


def test_orphans_are_removed_and_batches_stay(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ORPHAN_SECONDS", 0.1)
    often = settings.model_copy(update={"cleanup_interval_seconds": 0.05})
    with serving_with_blobs(often) as (api, blobs):
        name = api.open()
        for index in range(3):
            assert api.put(name, index).status_code == 201
        orphan = leave_orphan(blobs, name)
        folder = batches.folder(name)
        until(lambda: orphan not in set(blobs.names(folder)), lambda: "the orphan stays")
        assert set(blobs.names(folder))
        assert api.start(name, 3).status_code == 202
        assert api.wait(name)["state"] == "succeeded"


def test_new_files_without_a_row_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows may be on the way."""
    cleaned: list[float] = []
    clean_up = retention.clean_up

    async def counted(context: Context) -> None:
        await clean_up(context)
        cleaned.append(context.settings.cleanup_interval_seconds)

    monkeypatch.setattr(retention, "clean_up", counted)
    often = settings.model_copy(update={"cleanup_interval_seconds": 0.02})
    with serving_with_blobs(often) as (api, blobs):
        name = api.open()
        orphan = leave_orphan(blobs, name)
        before = len(cleaned)
        until(lambda: len(cleaned) > before + 2, lambda: "nothing is cleaned up")
        assert orphan in set(blobs.names(batches.folder(name)))
