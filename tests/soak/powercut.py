"""Simulate power cuts: shut down an ext4 file system on a loop device under a running server.

The shutdown discards everything that was not yet written to the device, including the journal of
the file system, as a power cut does. Mounting the file system again replays the written part of the
journal, after which a server must find every acknowledged batch.

A machine without power acknowledges nothing, but here the server keeps running for a moment. An
fsync that waits for the journal while it is aborted may return success (seen twice in 80 cuts, both
after the shutdown had begun), so later acknowledgments are not counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.admin.blob_files import LocalFiles
from service.admin.check import faults_of
from service.repositories.usage import expected_files
from service.storage.ledger.maintenance import open_ledger
from tests.soak.streams import LARGE_SAMPLES, SAMPLES, wait_until
from tests.support.server_process import ServerProcess
from tests.support.service_http import Api, safetensors
from tests.support.service_process import images, network

DURABLE, NOT_DURABLE = "service", "tests.soak.not_durable_server"
CLIENTS = 3
# Minimum number of acknowledged batches before a cut.
MIN_ACKNOWLEDGED = 10
# Large batches are stored as single files, the others in packs.
LARGE_EVERY = 8
DISK_BYTES = 1 << 30
# The disk is smaller than the default reserve.
SETTINGS = {"disk_reserve_bytes": 0}
# include/uapi/linux/ext4.h: EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING = 2
_TOOLS = ("mkfs.ext4", "mount", "umount")


@dataclass(slots=True, kw_only=True)
class Losses:
    """Number of batches acknowledged before a cut, and of those lost by it."""

    acknowledged: int = 0
    lost: int = 0


def unsupported_reason() -> str | None:
    """Return why power cuts are impossible on this machine, or None if they are possible."""
    if sys.platform != "linux":
        return "Linux is required"
    if os.geteuid() != 0:
        return "root is required for mounting"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is missing"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"bnrecal-loop-{os.getpid()}"
        folder.mkdir()
        try:
            with mounted(_new_disk(folder), folder / "mount"):
                return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return "mounting a loop device failed"


def cut(folder: Path, *, cuts: int, seed: int, module: str = DURABLE) -> Losses:
    """Cut the power `cuts` times under three clients; return the losses.

    Args:
        folder: created; contains the disk.
        cuts: number of power cuts.
        seed: seed of the times.
        module: the server module to start.
    """
    folder.mkdir(parents=True)
    disk, mount = _new_disk(folder), folder / "mount"
    chance = random.Random(seed)
    acknowledged: dict[int, str] = {}
    name, losses = "", Losses()
    for number in range(cuts):
        with mounted(disk, mount):
            server = ServerProcess(
                mount / "data", settings=SETTINGS, module=module, log=folder / "server.log"
            )
            server.start()
            try:
                with httpx.Client(base_url=server.url, timeout=60) as http:
                    if name:
                        losses.lost += _missing(http, name, acknowledged, mount / "data")
                    # A ledger that is not durable can lose the recalibration with all its batches.
                    if not name or Api(http).get(name).status_code == httpx.codes.NOT_FOUND:
                        name = Api(http).open(network())
                first = number * 100_000
                with _load(server.url, name, acknowledged, first):
                    time.sleep(chance.uniform(0.0, 0.7))
                    before = set(acknowledged)
                    shut_down(mount)
                    time.sleep(0.1)
                for index in acknowledged.keys() - before:
                    del acknowledged[index]
            finally:
                server.kill()
    with mounted(disk, mount):
        server = ServerProcess(
            mount / "data", settings=SETTINGS, module=module, log=folder / "server.log"
        )
        with server, httpx.Client(base_url=server.url, timeout=60) as http:
            losses.lost += _missing(http, name, acknowledged, mount / "data")
    losses.acknowledged = len(acknowledged) + losses.lost
    return losses


@contextmanager
def mounted(disk: Path, mount: Path) -> Iterator[None]:
    """Mount a disk for the duration of a `with` block."""
    mount.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", str(disk), str(mount))
    try:
        yield
    finally:
        _run("umount", str(mount))


def shut_down(mount: Path) -> None:
    """Shut down a mounted ext4 file system without flushing its journal."""
    handle = os.open(mount, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
    finally:
        os.close(handle)


def _new_disk(folder: Path) -> Path:
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-F", str(disk))
    return disk


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def _load(url: str, name: str, acknowledged: dict[int, str], first: int) -> Iterator[None]:
    """Send batches from three clients; enter the block once some are acknowledged."""
    stopping = threading.Event()
    before = len(acknowledged)

    def send(index: int) -> None:
        with httpx.Client(base_url=url, timeout=10) as http:
            while not stopping.is_set():
                samples = LARGE_SAMPLES if index % LARGE_EVERY == 0 else SAMPLES
                content = safetensors(x=images(index, samples))
                with contextlib.suppress(httpx.TransportError):
                    if Api(http).put(name, index, content).status_code == httpx.codes.CREATED:
                        acknowledged[index] = hashlib.sha256(content).hexdigest()
                index += 1

    clients = [threading.Thread(target=send, args=(first + n * 10_000,)) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        assert wait_until(lambda: len(acknowledged) >= before + MIN_ACKNOWLEDGED, 30.0)
        yield
    finally:
        stopping.set()
        for client in clients:
            client.join()


def _missing(http: httpx.Client, name: str, acknowledged: dict[int, str], data: Path) -> int:
    """Count and remove the acknowledged batches that the ledger or the folder has lost."""
    found = http.get(f"/v1/recalibrations/{name}")
    listed: dict[int, str] = {}
    page: dict[str, object] = {"next": "-1"}
    while found.status_code == httpx.codes.OK and page["next"] is not None:
        where = {"limit": "1000"} | ({} if page["next"] == "-1" else {"after": str(page["next"])})
        page = http.get(f"/v1/recalibrations/{name}/batches", params=where).json()
        listed |= {one["index"]: one["sha256"] for one in page["items"]}  # type: ignore[attr-defined]
    with open_ledger(data) as ledger:
        held = [one for file in ledger.read(expected_files).values() for one in file]
    whole = {one.sha256 for one in held if not faults_of(LocalFiles(data), [one], digests=True)}
    gone = [
        index
        for index, digest in acknowledged.items()
        if listed.get(index) != digest or digest not in whole
    ]
    for index in gone:
        del acknowledged[index]
    return len(gone)
