"""The app factory: builds an ASGI app from settings; nothing is global."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import Depends, FastAPI

from bn_ops.core.version import __version__
from service import health
from service.batches import api as batches_api
from service.batches import import_api
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
from service.page import routes as page_routes
from service.recalibrations import api as recalibrations_api
from service.recalibrations import event_api, result_api, retention
from service.recalibrations.dispatch import Dispatcher, recover
from service.recalibrations.waiting import watch_forever
from service.repositories import identity
from service.samples import api as samples_api
from service.settings import Settings
from service.storage.blobs.opening import open_blobs
from service.storage.blobs.os_calls import Disk
from service.storage.data_folder import LEDGER_FILE, locked
from service.storage.import_sources import ImportSources
from service.storage.ledger.maintenance import open_postgres
from service.storage.ledger.protocol import Ledger
from service.storage.ledger.sqlite import SqliteLedger
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Telemetry
from service.web import openapi as documentation
from service.web import problem_responses as errors
from service.web.head import HeadMiddleware
from service.web.security_headers import SecurityHeadersMiddleware
from service.web.visibility import visible
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import Executor

_log = logging.getLogger(__name__)
BLOCKING_THREADS = 64


def create_app(
    settings: Settings,
    *,
    executor: Executor | None = None,
    disk: Disk | None = None,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """Build the server.

    Args:
        settings: settings of the server.
        executor: does the work; worker processes when None.
        disk: system calls of the ledger and the blobs; those of the system when None.
        telemetry: what OpenTelemetry receives; nothing when None.

    Raises:
        StartError: the tokens cannot be read.
    """
    metrics = Metrics()
    telemetry = telemetry or Telemetry()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stores = running(
            settings,
            executor=executor,
            metrics=metrics,
            disk=disk or Disk(),
            telemetry=telemetry,
        )
        async with stores as (context, dispatcher):
            app.state.context = context
            app.state.dispatcher = dispatcher
            yield

    app = FastAPI(
        title="bnrecal",
        version=__version__,
        summary="Exact BatchNorm recalibration for a new domain.",
        lifespan=lifespan,
        dependencies=[Depends(visible)],
        # The framework's pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
        # Behind a proxy that terminates TLS, such a redirect would send a token over plain HTTP.
        redirect_slashes=False,
    )
    errors.install(app)
    app.state.bodies = OpenBodies()
    _add_layers(app, settings, metrics)
    if (tracing := telemetry.middleware) is not None:
        app.add_middleware(tracing)
    app.router.routes.extend(batches_api.DIRECT_ROUTES)
    app.router.routes.extend(page_routes.routes())
    for module in (
        models_api,
        recalibrations_api,
        batches_api,
        event_api,
        result_api,
        samples_api,
        oneshot_api,
        openinference_api,
        health,
    ):
        app.include_router(module.router)
    app.include_router(batches_api.source_router)
    app.include_router(import_api.router)
    documentation.install(app)
    return app


def _add_layers(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add the middleware; the last one that is added sees a request first."""
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestBodyLimitsMiddleware, settings=settings, bodies=app.state.bodies)
    keyring = Keyring(read_tokens(settings), refresh_seconds=settings.token_refresh_seconds)
    app.add_middleware(
        AuthenticationMiddleware, keyring=keyring, required=not is_loopback(settings.host)
    )
    app.add_middleware(ConcurrencyLimitMiddleware, limit=settings.max_connections)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(RequestLogMiddleware, metrics=metrics)


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    *,
    executor: Executor | None,
    metrics: Metrics,
    disk: Disk,
    may_lead: bool = True,
    telemetry: Telemetry | None = None,
) -> AsyncIterator[tuple[Context, Dispatcher]]:
    """Open the stores, requeue interrupted runs and start runs; close everything in reverse order.

    This is all of a server except HTTP.

    Args:
        settings: settings of the process.
        executor: does the work; worker processes when None.
        metrics: counts it.
        disk: system calls of the ledger and the blobs.
        may_lead: False in a process without `/metrics`, where the common gauges would be missed.
        telemetry: what OpenTelemetry receives; nothing when None. Closed at the end.

    Raises:
        StartError: the stores cannot be used.
    """
    telemetry = telemetry or Telemetry()
    with locked(settings.data_dir) as lock, contextlib.ExitStack() as stack:
        stack.callback(telemetry.close)
        ledger = _open_ledger(settings, metrics, disk, migrate=lock.exclusive)
        stack.callback(ledger.close)
        blobs = open_blobs(settings, disk.calls)
        stack.callback(blobs.close)
        if settings.blobs or settings.import_prefixes:
            # Requests of other kinds continue while some wait for a stalled object store.
            threads = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="blocking")
            asyncio.get_running_loop().set_default_executor(threads)
        lock.share()
        executor = executor or ProcessExecutor(settings, workspace=blobs.workspace)
        context = Context(
            settings=settings,
            ledger=ledger,
            blobs=blobs,
            executor=executor,
            imports=ImportSources(settings.import_prefixes),
            metrics=metrics,
            process=blobs.scratch.id,
            telemetry=telemetry,
        )
        try:
            await _bind(context)
            await _requeue_interrupted(context, blobs.scratch.ended)
            async with _background(context, may_lead=may_lead) as dispatcher:
                yield context, dispatcher
        finally:
            await executor.close()


def _open_ledger(settings: Settings, metrics: Metrics, disk: Disk, *, migrate: bool) -> Ledger:
    """Open the ledger that the settings name.

    Raises:
        StartError: it cannot be used.
    """
    observe = metrics.commit_seconds.observe
    if settings.ledger:
        return open_postgres(settings.ledger, on_commit=observe)
    path = settings.data_dir / LEDGER_FILE
    return SqliteLedger(path, on_commit=observe, vfs=disk.vfs, migrate=migrate)


async def _bind(context: Context) -> None:
    """Bind an object store to the ledger."""
    if not context.settings.blobs:
        return
    try:
        ledger_id = await context.ledger.write(identity.get)
        await asyncio.to_thread(context.blobs.bind, ledger_id)
    except CapacityError as error:
        raise StartError(f"the stores cannot be written: {error.message}") from error


async def _requeue_interrupted(context: Context, ended: Collection[str]) -> None:
    """Queue the runs of processes that have ended; do not start on a ledger that rejects writes."""
    try:
        await recover(context, ended)
    except CapacityError as error:
        raise StartError(f"the ledger cannot be written: {error.message}") from error


@contextlib.asynccontextmanager
async def _background(context: Context, *, may_lead: bool) -> AsyncIterator[Dispatcher]:
    """Run the dispatcher and the cleanup; log which sandbox restrictions are in force."""
    dispatcher = Dispatcher(context)
    dispatcher.start()
    tasks = [
        asyncio.create_task(watch_forever(context), name="watch"),
        asyncio.create_task(_log_sandbox_status(context), name="sandbox status"),
        asyncio.create_task(_log_ledger_warnings(context), name="ledger warnings"),
        asyncio.create_task(
            context.telemetry.export_metrics(
                context.metrics.registry, partial(health.set_gauges, context)
            ),
            name="metrics export",
        ),
    ]
    if may_lead:
        tasks.append(asyncio.create_task(retention.clean_up_forever(context), name="cleanup"))
    _listen(context, dispatcher)
    try:
        yield dispatcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await dispatcher.stop()


def _listen(context: Context, dispatcher: Dispatcher) -> None:
    """Let the changes that other processes report wake waiters and the dispatcher."""
    loop = asyncio.get_running_loop()

    def wake(topic: str) -> None:
        context.signals.notify(topic)
        dispatcher.wake()

    def notify(topic: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            loop.call_soon_threadsafe(wake, topic)

    context.ledger.listen(notify)


async def _log_ledger_warnings(context: Context) -> None:
    with contextlib.suppress(ServiceError):  # `/readyz` reports them as well
        for text in await context.ledger.warnings():
            _log.warning("The ledger: %s", text, extra={"action": "ledger-durability"})


async def _log_sandbox_status(context: Context) -> None:
    try:
        await context.executor.sandbox_status()  # logs it
    except ServiceError as error:
        _log.warning(
            "The sandbox restrictions in force are unknown: %s",
            error.message,
            extra={"action": "sandbox-unknown"},
        )
