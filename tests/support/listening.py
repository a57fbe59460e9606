"""An in-process server on a real socket, for tests that run the command in a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from service.app import create_app
from service.settings import Settings
from tests.support.client_server import MomentsExecutor
from tests.support.waiting import until


@contextmanager
def listening(folder: Path) -> Iterator[tuple[MomentsExecutor, str]]:
    """Serve on a free loopback port, and yield the executor and the address."""
    executor = MomentsExecutor()
    app = create_app(Settings(data_dir=folder), executor=executor)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        (listener,) = server.servers
        port = listener.sockets[0].getsockname()[1]
        yield executor, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
