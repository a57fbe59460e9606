"""A PostgreSQL server of its own for the tests, from Debian's package, without privileges."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.waiting import until

# Read at import: tests remove the settings of the user from the environment.
REQUIRED = bool(os.environ.get("BNRECAL_TEST_POSTGRES"))


class Cluster:
    """A database cluster in a temporary folder.

    Attributes:
        port: its port on 127.0.0.1.
    """

    def __init__(self, binaries: Path, folder: Path, *, primary: Cluster | None = None) -> None:
        """Create the data of a server, which does not run yet.

        Args:
            binaries: the folder of PostgreSQL's programs.
            folder: an empty folder.
            primary: the running server whose standby this one becomes.
        """
        self._binaries = binaries
        self._folder = folder
        self._made = 0
        self._settings: dict[str, str] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
        if primary is None:
            words = ("-A", "trust", "-U", "bnrecal", "-E", "UTF8", "--locale=C")
            self._run("initdb", "--no-sync", *words)
        else:
            source = f"host=127.0.0.1 port={primary.port} user=bnrecal"
            self._run("pg_basebackup", "--no-sync", "-R", "-c", "fast", "-d", source)

    def start(self, **settings: str) -> None:
        """Start the server and wait until it accepts connections."""
        self._settings = settings
        given = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "60",
            **settings,
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in given.items())
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def start_again(self) -> None:
        """Start the server with the same settings as last time."""
        self.start(**self._settings)

    @contextmanager
    def standby(self) -> Iterator[Cluster]:
        """Run a standby of this server."""
        with _temporary_folder() as folder:
            found = Cluster(self._binaries, folder, primary=self)
            found.start(**self._settings)
            with found.stopped_at_the_end():
                yield found

    def synchronous(self, names: str) -> None:
        """Let each commit wait for one of these standbys; `*` names all."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            command = f"ALTER SYSTEM SET synchronous_standby_names = '{names}'"
            connection.execute(command.encode())
            connection.execute("SELECT pg_reload_conf()")

    def checkpoint(self) -> None:
        """Write everything up to now to the disk."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "-w", "promote")

    @contextmanager
    def stopped_at_the_end(self) -> Iterator[None]:
        """Stop the server at the end, unless a test has killed it."""
        try:
            yield
        finally:
            with contextlib.suppress(AssertionError):
                self.stop("immediate")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """Kill the server as a crash would, and wait until all of its processes have ended."""
        parent = self.process()
        processes = [parent, *parent.children(recursive=True)]
        parent.kill()
        until(lambda: not any(map(_runs, processes)), lambda: "the server still runs")
        # Where nothing collects the process, its number looks as if it were still in use.
        (self._data / "postmaster.pid").unlink()

    def process(self) -> psutil.Process:
        """Return the first process of the server, the parent of all others."""
        return psutil.Process(int((self._data / "postmaster.pid").read_text().splitlines()[0]))

    def create(self) -> str:
        """Create an empty database and return its URL."""
        self._made += 1
        name = f"ledger{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def create_schema(self) -> str:
        """Create an empty schema and return its URL: as good as a database, and made faster."""
        self._made += 1
        name = f"ledger{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://bnrecal@127.0.0.1:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, command: str, *arguments: str) -> None:
        words: Sequence[str] = [str(self._binaries / command), "-D", str(self._data), *arguments]
        if os.getuid() == 0:
            words = ["runuser", "-u", "postgres", "--", *words]
        done = subprocess.run(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    """Run a cluster; skip the test where PostgreSQL is not required."""
    if not REQUIRED:
        pytest.skip("without PostgreSQL: set BNRECAL_TEST_POSTGRES=1")
    with running_cluster(**settings) as found:
        yield found


@contextmanager
def running_cluster(**settings: str) -> Iterator[Cluster]:
    """Run a cluster.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    binaries = _binaries()
    if binaries is None:
        raise FileNotFoundError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with _temporary_folder() as folder:
        found = Cluster(binaries, folder)
        found.start(**settings)
        with found.stopped_at_the_end():
            yield found


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bnrecal-postgres-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _binaries() -> Path | None:
    """Return the folder of the server's programs; Debian does not add it to PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if folders:
        return folders[-1]
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent
