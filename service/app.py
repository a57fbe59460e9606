"""The app factory: settings and seams in, an ASGI app out. Nothing here is global."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI

from bn_ops.version import __version__
from service import health
from service.batches import api as batches_api
from service.context import Context
from service.errors import CapacityError, ServiceError, StartError
from service.middleware.authentication import AuthenticationMiddleware, is_loopback
from service.middleware.body_limits import OpenBodies, RequestBodyLimitsMiddleware
from service.middleware.concurrency_limit import ConcurrencyLimitMiddleware
from service.middleware.keyring import Keyring, read_tokens
from service.middleware.request_log import RequestLogMiddleware
from service.models import api as models_api
from service.oneshot import api as oneshot_api
from service.openinference import api as openinference_api
from service.recalibrations import api as recalibrations_api
from service.recalibrations import event_api, recovery, result_api, retention
from service.recalibrations.dispatch import Dispatcher
from service.settings import Settings
from service.storage.blobs.folder import FolderBlobs
from service.storage.disk import Disk
from service.storage.folder_lock import only_server
from service.storage.ledger.filesystem_check import LEDGER_FILE
from service.storage.ledger.sqlite import SqliteLedger
from service.telemetry.metrics import Metrics
from service.web import openapi as documentation
from service.web import problem_responses as errors
from service.web.head import HeadMiddleware
from service.web.security_headers import SecurityHeadersMiddleware
from service.web.visibility import visible
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import Executor

_log = logging.getLogger(__name__)


def create_app(
    settings: Settings, *, executor: Executor | None = None, disk: Disk | None = None
) -> FastAPI:
    """Build the server.

    Args:
        settings: read once, by the caller.
        executor: what computes; worker processes when None.
        disk: how the ledger and the blobs reach the disk; the system's own way when None.

    Raises:
        StartError: the tokens cannot be read.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        computer = executor or ProcessExecutor(settings)
        async with _running(settings, computer, metrics, disk or Disk()) as (context, dispatcher):
            app.state.context = context
            app.state.dispatcher = dispatcher
            yield

    app = FastAPI(
        title="bnrecal",
        version=__version__,
        summary="Exact BatchNorm recalibration for a new domain.",
        lifespan=lifespan,
        dependencies=[Depends(visible)],
        # The framework's pages load scripts from a foreign host.
        docs_url=None,
        redoc_url=None,
        # Behind a proxy that ends TLS, such a redirect would lead a client with its token to http.
        redirect_slashes=False,
    )
    errors.install(app)
    app.state.bodies = OpenBodies()
    _add_layers(app, settings, metrics)
    app.router.routes.append(batches_api.DIRECT_ROUTE)
    for module in (
        models_api,
        recalibrations_api,
        batches_api,
        event_api,
        result_api,
        oneshot_api,
        openinference_api,
        health,
    ):
        app.include_router(module.router)
    documentation.install(app)
    return app


def _add_layers(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Put the layers around the routes; the last that is added is the first to see a request."""
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestBodyLimitsMiddleware, settings=settings, bodies=app.state.bodies)
    keyring = Keyring(read_tokens(settings))
    app.add_middleware(
        AuthenticationMiddleware, keyring=keyring, required=not is_loopback(settings.host)
    )
    app.add_middleware(ConcurrencyLimitMiddleware, limit=settings.connections)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(RequestLogMiddleware, metrics=metrics)


@contextlib.asynccontextmanager
async def _running(
    settings: Settings, executor: Executor, metrics: Metrics, disk: Disk
) -> AsyncIterator[tuple[Context, Dispatcher]]:
    """Open ledger and blobs, take up what was cut off; close everything in reverse order."""
    with only_server(settings.data_dir):
        ledger = SqliteLedger(
            settings.data_dir / LEDGER_FILE,
            on_commit=metrics.commit_seconds.observe,
            vfs=disk.vfs,
        )
        try:
            context = Context(
                settings=settings,
                ledger=ledger,
                blobs=FolderBlobs(
                    settings.data_dir,
                    system=disk.system,
                    reserve_bytes=settings.disk_reserve_bytes,
                ),
                executor=executor,
                metrics=metrics,
            )
            await _take_up(context)
            async with _background(context) as dispatcher:
                yield context, dispatcher
        finally:
            await executor.close()
            ledger.close()


async def _take_up(context: Context) -> None:
    """Queue what the last server left running; a ledger that fails already is not served from."""
    try:
        found = await context.ledger.write(lambda tx: recovery.take_up(tx, context.settings))
    except CapacityError as error:
        raise StartError(f"the ledger cannot be written: {error.message}") from error
    for one in found:
        context.metrics.count_failure(one.error)
    _log.info("%d runs are taken up again", len(found), extra={"action": "taken-up"})


@contextlib.asynccontextmanager
async def _background(context: Context) -> AsyncIterator[Dispatcher]:
    """Keep the dispatcher and the sweeper going; ask a worker what holds it in, for the log."""
    dispatcher = Dispatcher(context)
    dispatcher.start()
    beside = [
        asyncio.create_task(retention.sweep_forever(context), name="sweeper"),
        asyncio.create_task(_tell_protections(context), name="protections"),
    ]
    try:
        yield dispatcher
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await dispatcher.stop()


async def _tell_protections(context: Context) -> None:
    try:
        await context.executor.protections()
    except ServiceError as error:
        _log.warning(
            "What holds the workers in is not known: %s",
            error.message,
            extra={"action": "protections-unknown"},
        )
