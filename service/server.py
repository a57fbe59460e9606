"""From a command line to a listening server."""

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

from bn_ops.version import __version__
from service import settings_loading as configuration
from service.admin.ledger import tokens_of
from service.app import create_app
from service.errors import StartError
from service.middleware.authentication import is_loopback
from service.middleware.keyring import read_tokens
from service.settings import Settings
from service.storage.folder_lock import only_server
from service.telemetry import logs
from service.uvicorn_protocol.connection_limit import limited_protocol

_log = logging.getLogger(__name__)
# The ledger, workers' pipes, the folders of blobs, and room for what libraries open.
OTHER_FILES = 256
# Connections that wait to be accepted while the loop is busy.
BACKLOG = 2048
# From the moment when a shutdown waits no longer for bodies: enough to answer each of them.
CUT_OFF_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal; return 2 if the server does not start."""
    given = _parse(arguments)
    return serve(given.pop("config"), given)


def serve(config_file: Path | None, overrides: Mapping[str, object]) -> int:
    """Serve until a signal; return 2 if the server does not start.

    Args:
        config_file: TOML file of settings, None for that of the environment or none.
        overrides: settings by name that take precedence; None values are ignored.
    """
    try:
        settings = configuration.read(config_file, overrides)
        refuse_open_door(settings)
        # The app takes the lock when it starts, but uvicorn would print that error as a traceback.
        with only_server(settings.data_dir):
            pass
        listener = bind(settings.host, settings.port)
        app = create_app(settings)
    except StartError as error:
        sys.stderr.write(f"bnrecal does not start: {error}\n")
        return 2
    logs.configure(settings.log_level)
    _allow_files(2 * settings.connections + OTHER_FILES)
    _tell_of_unknown_variables()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds + CUT_OFF_SECONDS),
        lifespan="on",
        http=limited_protocol(settings.connections, settings.body_idle_seconds),
        ws="none",
    )
    server = AnnouncedServer(config, app, listener)
    # After its orderly shutdown uvicorn raises the signal again; to us that is the end of a day.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    server.run(sockets=[listener])
    return 0 if server.started else 2


def _allow_files(wanted: int) -> None:
    """Let this process open so many files, or as many as it may; each upload takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "%d files may be open at one time, so many connections may need %d",
            allowed,
            wanted,
            extra={"action": "few-files", "allowed": allowed, "wanted": wanted},
        )


def _tell_of_unknown_variables() -> None:
    """Warn of what is set in vain; a refusal would let another program's variable stop us."""
    for name in configuration.unknown_variables():
        _log.warning(
            "%s is no setting", name, extra={"action": "unknown-variable", "variable": name}
        )


def _leave(*_: object) -> None:
    raise SystemExit(0)


class AnnouncedServer(uvicorn.Server):
    """Says on standard output where it listens, and goes down in good order."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, listener: socket.socket) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then speak: whoever waits for the line can send a request at once."""
        await super().startup(sockets)
        if self.started:
            host, port = self._listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            url = f"http://{shown}:{port}"
            sys.stdout.write(f"bnrecal is listening on {url}\n")
            sys.stdout.flush()
            self._tell(url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams of events, which would never end by themselves; let the rest finish."""
        _log.info("The server stops", extra={"action": "stopping"})
        state = self._app.state
        state.context.signals.close()
        seconds = state.context.settings.shutdown_seconds
        asyncio.get_running_loop().call_later(seconds, state.bodies.close)
        await super().shutdown(sockets)

    def _tell(self, url: str) -> None:
        settings: Settings = self._app.state.context.settings
        # Hashes of tokens are no secrets, and no news to a log either.
        told = settings.model_dump(mode="json", exclude_defaults=True, exclude={"tokens"})
        extra = {"action": "listening", "url": url, "version": __version__, "settings": told}
        _log.info("bnrecal %s listens on %s", __version__, url, extra=extra)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings of file and environment, overridden by the command line.

    Raises:
        StartError: the file cannot be read, or a value makes no sense.
    """
    given = _parse(arguments)
    return configuration.read(given.pop("config"), given)


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Serve recalibrations over HTTP."
    )
    parser.add_argument("--config", type=Path, help="TOML file of settings (BNRECAL_CONFIG)")
    parser.add_argument("--host", help="address to bind (BNRECAL_HOST)")
    parser.add_argument("--port", type=int, help="port to bind, 0 for a free one (BNRECAL_PORT)")
    parser.add_argument("--data-dir", type=Path, help="folder for everything (BNRECAL_DATA_DIR)")
    return vars(parser.parse_args(arguments))


def refuse_open_door(settings: Settings) -> None:
    """Refuse to serve other machines without a token.

    Raises:
        StartError: the address is not a loopback one, and no token is configured or the ledger,
            which may hold one, cannot be read.
    """
    if is_loopback(settings.host):
        return  # before the ledger is opened: the server itself does that in a moment
    if not read_tokens(settings) and not tokens_of(settings.data_dir):
        raise StartError(
            f"{settings.host} can be reached from other machines: make a token with "
            "`python -m service.admin tokens create NAME`, set BNRECAL_TOKENS or "
            "BNRECAL_TOKENS_FILE, or bind 127.0.0.1"
        )


def bind(host: str, port: int) -> socket.socket:
    """Bind the listening socket.

    Raises:
        StartError: the address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named by its protocol: asyncio switches Nagle's algorithm off only on sockets that say TCP,
    # and with it each answer on a kept connection waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(f"{host}:{port} cannot be bound: {error.strerror}") from error
    return listener
