"""Start a server or a runner from a command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bn_ops.core.version import __version__
from service import settings_loading
from service.app import create_app, running
from service.errors import StartError
from service.middleware.authentication import is_loopback
from service.middleware.keyring import read_tokens
from service.repositories import tokens
from service.settings import Settings
from service.storage.blobs.opening import check_blobs
from service.storage.blobs.os_calls import Disk
from service.storage.data_folder import locked
from service.storage.ledger.maintenance import read_tokens_ledger
from service.telemetry import logs
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import open_telemetry
from service.uvicorn_protocol.connection_limit import limited_protocol
from service.workers.sharding.on_ray import check_runner

_log = logging.getLogger(__name__)
# For the ledger, workers' pipes, folders of blobs, and files that libraries open.
OTHER_FILES = 256
# Connections that wait to be accepted while the event loop is busy.
BACKLOG = 2048
# After a shutdown stops waiting for request bodies: time to respond to those requests.
CLOSING_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    """Serve, or run without HTTP, until a signal; return 2 if the process does not start."""
    given = _parse(arguments)
    start = run_queued if given.pop("runner") else serve
    return start(given.pop("config"), given)


def serve(config_file: Path | None, overrides: Mapping[str, object]) -> int:
    """Serve until a signal; return 2 if the server does not start.

    Args:
        config_file: TOML file of settings, None for that of the environment or none.
        overrides: settings by name that take precedence; None values are ignored.
    """
    try:
        settings = settings_loading.read(config_file, overrides)
        require_token_unless_loopback(settings)
        # The app does the same when it starts, but uvicorn would print an error as a traceback.
        with locked(settings.data_dir):
            pass
        check_blobs(settings)
        check_runner(settings)
        listener = bind(settings.host, settings.port)
        logs.configure(settings.log_level, settings.log_format)
        app = create_app(settings, telemetry=open_telemetry())
    except StartError as error:
        return _not_started(error)
    _raise_file_limit(2 * settings.max_connections + OTHER_FILES)
    _warn_of_unknown_variables()
    starting = StartErrors(app)
    config = uvicorn.Config(
        starting,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds + CLOSING_SECONDS),
        lifespan="on",
        http=limited_protocol(settings.max_connections, settings.body_idle_seconds),
        ws="none",
    )
    server = AnnouncedServer(config, app, listener)
    # After a graceful shutdown uvicorn raises the signal again; exit with status 0 then.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    try:
        server.run(sockets=[listener])
    except SystemExit:  # of uvicorn, when the app does not start
        if starting.error is None:
            raise
        return _not_started(starting.error)
    return 0 if server.started else 2


def _not_started(error: StartError) -> int:
    """Print why the server does not start, in one line; return the exit status."""
    sys.stderr.write(f"bnrecal does not start: {error}\n")
    return 2


class StartErrors:
    """Passes requests on to the app, and keeps an error of its start from uvicorn's log.

    uvicorn would print it as a traceback.

    Attributes:
        error: why the app does not start; None if it does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.error: StartError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request, or the start and the end of the app."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def without_traceback(message: Message) -> None:
            # Called while the error is handled: the message is its traceback.
            if isinstance(sys.exception(), StartError):
                message = {**message, "message": ""}
                logging.getLogger("uvicorn.error").addFilter(_is_not_summary)
            await send(message)

        try:
            await self._app(scope, receive, without_traceback)
        except StartError as error:
            self.error = error


def _is_not_summary(record: logging.LogRecord) -> bool:
    """Return whether a record is not uvicorn's own on a failed start, which has no cause."""
    return not record.getMessage().startswith("Application startup failed")


def run_queued(config_file: Path | None, overrides: Mapping[str, object]) -> int:
    """Claim and run queued recalibrations until a signal, without HTTP; return 2 if not started.

    Args:
        config_file: TOML file of settings, None for that of the environment or none.
        overrides: settings by name that take precedence; None values are ignored.
    """
    try:
        settings = settings_loading.read(config_file, overrides)
        logs.configure(settings.log_level, settings.log_format)
        asyncio.run(_run_queued(settings))
    except StartError as error:
        sys.stderr.write(f"bnrecal runner does not start: {error}\n")
        return 2
    return 0


async def _run_queued(settings: Settings) -> None:
    if not settings.max_concurrent_runs:
        raise StartError("a runner needs BNRECAL_MAX_CONCURRENT_RUNS of at least 1")
    check_runner(settings)
    _warn_of_unknown_variables()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    stores = running(
        settings,
        executor=None,
        metrics=Metrics(),
        disk=Disk(),
        may_lead=False,
        telemetry=open_telemetry(),
    )
    async with stores:
        sys.stdout.write("bnrecal runner is ready\n")
        sys.stdout.flush()
        extra = {"action": "runner", "version": __version__, "settings": _changed(settings)}
        _log.info("bnrecal %s runs queued recalibrations", __version__, extra=extra)
        await stopped.wait()
        _log.info("The runner stops", extra={"action": "stopping"})


def _changed(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults, without secrets."""
    # Hashes of tokens are not secret, but of no use in a log. The URL may hold a password.
    return settings.model_dump(mode="json", exclude_defaults=True, exclude={"tokens", "ledger"})


def _raise_file_limit(wanted: int) -> None:
    """Raise the limit of open files to a number, as far as allowed; each upload uses two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "The limit of open files is %d; the configured connections may need %d",
            allowed,
            wanted,
            extra={"action": "file-limit-low", "allowed": allowed, "wanted": wanted},
        )


def _warn_of_unknown_variables() -> None:
    """Warn of unknown variables; they may belong to another program, so they are not an error."""
    for name in settings_loading.unknown_variables():
        _log.warning(
            "%s is not a setting", name, extra={"action": "unknown-variable", "variable": name}
        )


def _exit(*_: object) -> None:
    raise SystemExit(0)


class AnnouncedServer(uvicorn.Server):
    """Prints its address on standard output when it is ready, and shuts down gracefully."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, listener: socket.socket) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the address: a process that waits for it can send requests at once."""
        await super().startup(sockets)
        if self.started:
            host, port = self._listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            url = f"http://{shown}:{port}"
            sys.stdout.write(f"bnrecal is listening on {url}\n")
            sys.stdout.flush()
            self._log_start(url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close event streams, which would not end on their own, and let other requests finish."""
        _log.info("The server stops", extra={"action": "stopping"})
        state = self._app.state
        state.context.signals.close()
        seconds = state.context.settings.shutdown_seconds
        asyncio.get_running_loop().call_later(seconds, state.bodies.close)
        await super().shutdown(sockets)

    def _log_start(self, url: str) -> None:
        settings: Settings = self._app.state.context.settings
        changed = _changed(settings)
        extra = {"action": "listening", "url": url, "version": __version__, "settings": changed}
        _log.info("bnrecal %s listens on %s", __version__, url, extra=extra)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings from file, environment and command line.

    Raises:
        StartError: the file cannot be read, or a value is invalid.
    """
    given = _parse(arguments)
    del given["runner"]
    return settings_loading.read(given.pop("config"), given)


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Serve recalibrations over HTTP."
    )
    parser.add_argument("--config", type=Path, help="TOML file of settings (BNRECAL_CONFIG)")
    parser.add_argument(
        "--runner", action="store_true", help="run queued recalibrations, without HTTP"
    )
    parser.add_argument("--host", help="address to bind (BNRECAL_HOST)")
    parser.add_argument("--port", type=int, help="port to bind, 0 for a free one (BNRECAL_PORT)")
    parser.add_argument("--data-dir", type=Path, help="folder for all data (BNRECAL_DATA_DIR)")
    return vars(parser.parse_args(arguments))


def require_token_unless_loopback(settings: Settings) -> None:
    """Check that a server that other machines can reach has a token.

    Raises:
        StartError: the address is not a loopback address, and there is no token, or the ledger,
            which may hold one, cannot be read.
    """
    if is_loopback(settings.host):
        return
    if not read_tokens(settings) and not read_tokens_ledger(
        settings.data_dir, settings.ledger, tokens.count
    ):
        raise StartError(
            f"{settings.host} can be reached from other machines: create a token with "
            "`python -m service.admin tokens create NAME`, set BNRECAL_TOKENS or "
            "BNRECAL_TOKENS_FILE, or bind 127.0.0.1"
        )


def bind(host: str, port: int) -> socket.socket:
    """Bind the listening socket.

    Raises:
        StartError: the address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol: asyncio disables Nagle's algorithm only on sockets that name TCP, and with
    # it each response on a persistent connection waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"{host}:{port} cannot be bound: {error.strerror}; choose another with --port (0 picks "
            "a free one)"
        ) from error
    return listener
