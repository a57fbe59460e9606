"""An S3 server of its own for the tests: Ceph from Debian's packages, without systemd."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.waiting import until

# Set where the tests must not be skipped. Read now: tests do not see the settings of their user.
REQUIRED = bool(os.environ.get("BNRECAL_TEST_S3"))
# The endpoint of a running server for the tests, which the AWS variables give access to.
RUNNING = os.environ.get("BNRECAL_TEST_S3_ENDPOINT")
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
DAEMONS = ("client.rgw", "osd.0", "mon.a")
REGION = "us-east-1"
USER = "bnrecal"
_CONFIG = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{monitor}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
ms_bind_msgr2 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = {folder}
admin_socket = {folder}/$cluster-$name.asok
log_file = {folder}/$name.log
pid_file = {folder}/$name.pid
[mon]
mon_data = {folder}/mon
mon_data_avail_crit = 1
[osd]
osd_data = {folder}/osd
osd_objectstore = bluestore
bluestore_block_size = 4294967296
osd_memory_target = 939524096
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_data = {folder}/rgw
"""


class ObjectServer:
    """An S3 server.

    Attributes:
        endpoint: its URL.
        environment: the variables that a client needs.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.endpoint = environment["AWS_ENDPOINT_URL"]

    def bucket(self) -> str:
        """Create an empty bucket and return its name."""
        # Imported here, so that tests can be collected without the package.
        from obstore import sign
        from obstore.store import S3Store

        name = f"bnrecal-{uuid.uuid4().hex}"
        store = S3Store(
            name,
            endpoint=self.endpoint,
            access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region=REGION,
            client_options={"allow_http": True},
        )
        response = httpx.put(sign(store, "PUT", "", timedelta(minutes=1)), timeout=60)
        assert response.status_code == httpx.codes.OK, response.text
        return name


class Ceph(ObjectServer):
    """A Ceph cluster of one monitor, one disk in a file, and one S3 gateway."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        monitor, port = _free_port(), _free_port()
        super().__init__(
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_REGION": REGION,
                "AWS_ACCESS_KEY_ID": uuid.uuid4().hex,
                "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex,
            }
        )
        fsid = str(uuid.uuid4())
        config = _CONFIG.format(fsid=fsid, monitor=monitor, port=port, folder=folder)
        (folder / "ceph.conf").write_text(config)
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        address = f"[v1:127.0.0.1:{monitor}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, "monmap")

    def start(self) -> None:
        """Start all daemons, and create the user."""
        disk = str(uuid.uuid4())
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap")
        self._run("ceph-mon", "-i", "a")
        self._run_again("ceph", "osd", "new", disk)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        place = ("root=default", "host=here")
        self._run_again("ceph", "osd", "crush", "add", "osd.0", "1.0", *place)
        self._run_again("ceph-osd", "-i", "0")
        self.start_gateway()
        keys = self.environment
        self._run(
            *("radosgw-admin", "user", "create", f"--uid={USER}", f"--display-name={USER}"),
            f"--access-key={keys['AWS_ACCESS_KEY_ID']}",
            f"--secret-key={keys['AWS_SECRET_ACCESS_KEY']}",
        )
        self._wait_for_gateway()

    def start_gateway(self) -> None:
        """Start the gateway; it may take some seconds until it responds."""
        self._run("radosgw", "-n", "client.rgw")

    def restart_gateway(self) -> None:
        """Start the gateway and wait until it responds."""
        self.start_gateway()
        self._wait_for_gateway()

    def gateway(self) -> psutil.Process:
        """Return the process of the gateway."""
        return self._process("client.rgw")

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the gateway, the disk and the monitor."""
        return [self._process(name) for name in DAEMONS]

    def stop(self) -> None:
        """Kill all daemons."""
        for name in DAEMONS:
            with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
                process = self._process(name)
                process.kill()
                until(lambda: not _runs(process), lambda: f"{process} still runs")  # noqa: B023 - called at once

    def _process(self, name: str) -> psutil.Process:
        return psutil.Process(int((self._folder / f"{name}.pid").read_text()))

    def _wait_for_gateway(self) -> None:
        def responds() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(self.endpoint, timeout=5).status_code == httpx.codes.OK
            return False

        until(responds, lambda: "the S3 gateway does not respond", seconds=120, pause=0.1)

    def _run_again(self, *words: str) -> None:
        """Run a program that the monitor refuses in its first moments ("wrong fsid")."""
        errors: list[AssertionError] = []

        def succeeds() -> bool:
            try:
                self._run(*words)
            except AssertionError as error:
                errors.append(error)
                return False
            return True

        until(succeeds, lambda: errors[-1], pause=0.2)

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            words,
            env={**os.environ, "CEPH_CONF": str(self._folder / "ceph.conf")},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """Yield an S3 server; skip the test where Ceph is needed and not installed."""
    if RUNNING:
        names = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        given = {name: os.environ[name] for name in names}
        yield ObjectServer({"AWS_ENDPOINT_URL": RUNNING, **given})
        return
    with ceph() as found:
        yield found


@contextmanager
def ceph() -> Iterator[Ceph]:
    """Run a Ceph cluster; skip the test where that is not required.

    The tests with it take minutes.
    """
    if not REQUIRED:
        pytest.skip("without S3: set BNRECAL_TEST_S3=1")
    with running_ceph() as found:
        yield found


@contextmanager
def running_ceph() -> Iterator[Ceph]:
    """Run a Ceph cluster.

    Raises:
        FileNotFoundError: Ceph is not installed.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        message = f"not installed: {missing} (Debian: apt-get install ceph-mon ceph-osd radosgw)"
        raise FileNotFoundError(message)
    folder = Path(tempfile.mkdtemp(prefix="bnrecal-s3-"))
    try:
        found = Ceph(folder)
        try:
            found.start()
            yield found
        finally:
            found.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
