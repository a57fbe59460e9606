"""A Ray cluster of several nodes on this machine, with a token, whose nodes can be killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until

# Read at import: tests remove the settings of the user from the environment.
REQUIRED = bool(os.environ.get("BNRECAL_TEST_RAY"))
LOCAL = "127.0.0.1"
# Of all clusters: a process keeps the token that it has read first.
_TOKEN = secrets.token_hex(32)
NODE_MEMORY_BYTES = 20_000_000_000


class Node:
    """A node: what `ray start` starts, until it is killed."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *arguments: str,
        within: Sequence[str] = (),
    ) -> None:
        self._log = folder / f"node-{secrets.token_hex(4)}.log"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **settings}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *within,
                    *(sys.executable, "-c", "from ray.scripts.scripts import main; main()"),
                    *("start", "--block", "--disable-usage-stats"),
                    *("--object-store-memory", "80000000"),
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder,
            )

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the node and their workers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def has_started(self) -> bool:
        """Wait until the node has started, or failed to."""
        until(
            lambda: b"Ray runtime started" in self._log.read_bytes() or self._ended(),
            self._log.read_text,
            pause=0.1,
        )
        return not self._ended()

    def log(self) -> str:
        """Return what it has printed."""
        return self._log.read_text()

    def kill(self) -> None:
        """Kill all its processes at once, as if the machine had lost its power; may be repeated."""
        found = self.processes()
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(how)
        self._process.wait(30)
        psutil.wait_procs(found, 30)

    def _ended(self) -> bool:
        return self._process.poll() is not None


def settings(token: Path) -> dict[str, str]:
    """Return the environment of every process that belongs to the cluster."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A dead node is noticed in three seconds instead of seventeen.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "OMP_NUM_THREADS": "1",
    }


class RayNodes:
    """The cluster.

    Attributes:
        address: of its head.
        client_address: of its Ray Client server.
        environment: variables of a process that connects to it.
        nodes: the nodes that hold shards.
    """

    def __init__(
        self,
        address: str,
        client_address: str,
        environment: dict[str, str],
        start: Callable[[str, Sequence[str]], Node],
    ) -> None:
        self.address = address
        self.client_address = client_address
        self.environment = environment
        self.nodes: list[Node] = []
        self._start = start

    def add(self, address: str = LOCAL, within: Sequence[str] = ()) -> Node:
        """Start a node that holds shards.

        Args:
            address: of the node.
            within: beginning of the command that starts it.
        """
        self.nodes.append(started(lambda: self._start(address, within)))
        return self.nodes[-1]


def started(start: Callable[[], Node], *, attempts: int = 3) -> Node:
    """Start a node; those of one machine that start at the same time may disturb each other."""
    for _ in range(attempts):
        node = start()
        if node.has_started():
            return node
        node.kill()
    raise AssertionError(node.log())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        return int(free.getsockname()[1])


@contextmanager
def ray_nodes(
    count: int = 2,
    cpus: int = 2,
    environment: Mapping[str, str] | None = None,
    address: str = LOCAL,
) -> Iterator[RayNodes]:
    """Run a head, which holds no shards, and some nodes.

    Args:
        count: number of nodes.
        cpus: CPUs of each.
        environment: variables of their processes, besides those of Ray.
        address: address of the head.
    """
    if find_spec("ray") is None:
        assert not REQUIRED, "Ray is not installed"
        pytest.skip("Ray is not installed")
    port, client_port = _free_port(), _free_port()
    # The path of a socket below it has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    token = folder / "token"
    token.write_text(_TOKEN)
    token.chmod(0o600)
    head_address = f"{address}:{port}"
    own = settings(token)
    given = {**own, **(environment or {})}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def node(own_address: str, within: Sequence[str], *arguments: str) -> Node:
            own_arguments = (f"--node-ip-address={own_address}", *arguments)
            found = Node(folder, given, *own_arguments, within=within)
            stack.callback(found.kill)
            return found

        head = (
            *("--head", f"--port={port}", f"--ray-client-server-port={client_port}"),
            *("--num-cpus=0", "--memory=1000000000", "--include-dashboard=false"),
            f"--temp-dir={folder}/ray",
        )
        other = (f"--address={head_address}", f"--num-cpus={cpus}", f"--memory={NODE_MEMORY_BYTES}")
        started(lambda: node(address, (), *head))
        found = RayNodes(
            head_address,
            f"ray://{address}:{client_port}",
            {"RAY_ADDRESS": head_address, **own},
            lambda own_address, within: node(own_address, within, *other),
        )
        for _ in range(count):
            found.add()
        yield found
