"""The app factory: settings and seams in, an ASGI app out. Nothing here is global."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI

from bn_ops.version import __version__
from service import health
from service.batches import api as batches_api
from service.blobs.folder import FolderBlobs
from service.context import Context
from service.executor.process import ProcessExecutor
from service.executor.protocol import Executor
from service.folder_lock import only_server
from service.http import errors
from service.ledger.sqlite import SqliteLedger
from service.models import api as models_api
from service.recalibrations import api as recalibrations_api
from service.recalibrations import recovery, result_api, retention
from service.recalibrations.dispatch import Dispatcher
from service.settings import Settings

_log = logging.getLogger(__name__)
LEDGER_FILE = "ledger.sqlite3"


def create_app(settings: Settings, *, executor: Executor | None = None) -> FastAPI:
    """Build the server.

    Args:
        settings: read once, by the caller.
        executor: what computes; worker processes when None.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, executor or ProcessExecutor(settings)) as (context, runs):
            app.state.context = context
            app.state.dispatcher = runs
            yield

    app = FastAPI(
        title="bnrecal",
        version=__version__,
        summary="Exact BatchNorm recalibration for a new domain.",
        lifespan=lifespan,
    )
    errors.install(app)
    for module in (models_api, recalibrations_api, batches_api, result_api, health):
        app.include_router(module.router)
    return app


@contextlib.asynccontextmanager
async def _running(
    settings: Settings, executor: Executor
) -> AsyncIterator[tuple[Context, Dispatcher]]:
    """Open ledger and blobs, take up what was cut off; close everything in reverse order."""
    with only_server(settings.data_dir):
        ledger = SqliteLedger(settings.data_dir / LEDGER_FILE)
        blobs = FolderBlobs(settings.data_dir)
        context = Context(settings=settings, ledger=ledger, blobs=blobs, executor=executor)
        try:
            interrupted = await ledger.write(lambda tx: recovery.take_up(tx, settings))
            _log.info("%d runs are taken up again", interrupted, extra={"action": "taken-up"})
            dispatcher = Dispatcher(context)
            dispatcher.start()
            sweeper = asyncio.create_task(retention.sweep_forever(context), name="sweeper")
            try:
                yield context, dispatcher
            finally:
                sweeper.cancel()
                await asyncio.wait([sweeper])
                await dispatcher.stop()
        finally:
            ledger.close()
