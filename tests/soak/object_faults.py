"""Kill the server and its S3 gateway, and disturb the requests between them, under senders."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from service.admin.blob_files import ObjectFiles
from service.admin.check import faults_of
from service.repositories.usage import expected_files
from service.storage.blobs.object_client import ObjectClient
from service.storage.ledger.maintenance import open_ledger
from tests.support.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.support.s3 import Ceph
from tests.support.server_process import ServerProcess
from tests.support.service_http import Api, safetensors
from tests.support.service_process import images, network, running

SENDERS = 6
# Between two batches of a sender: the number of batches is then about the same on each machine.
PAUSE_SECONDS = 0.03
SAMPLES = 4
KILL, GATEWAY = "kill", "gateway"
EVENTS = (KILL, GATEWAY, *(str(fault) for fault in Fault if fault is not Fault.NONE))
RESULTS = ("/model", "/model?variant=unfolded", "/statistics")


@dataclass(slots=True, kw_only=True)
class Tally:
    """Results of a run.

    Attributes:
        events: number of each kind of event.
        refused: number of requests that were answered with an error, or not at all.
        acknowledged: number of different batches that were acknowledged.
        lost: number of those whose row or content is missing afterwards.
        doubled: number of batches that are stored and were never sent, or are counted twice.
        different: whether the result has other bytes than that of an undisturbed run; None if
            batches were lost.
    """

    events: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    different: bool | None = None

    def summary(self) -> dict[str, object]:
        """Return the results as a JSON object."""
        names = ("refused", "acknowledged", "lost", "doubled", "different")
        return {"events": dict(self.events)} | {name: getattr(self, name) for name in names}

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled or computed differently."""
        return (self.lost, self.doubled, self.different) == (0, 0, False)


def body(index: int) -> bytes:
    """Return a batch."""
    return safetensors(x=images(index, samples=SAMPLES))


class Senders:
    """Send batches from several threads, each again and again until it is acknowledged."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._path = f"/v1/recalibrations/{name}/batches"
        self._tally = tally
        self._lock = threading.Lock()
        self._next = 0
        self.url = ""
        self.stopping = threading.Event()
        self.acknowledged: set[int] = set()

    def send(self) -> None:
        """Send until `stopping` is set."""
        with httpx.Client(timeout=120) as http:
            while not self.stopping.is_set():
                with self._lock:
                    index, self._next = self._next, self._next + 1
                self._send(http, index)

    def _send(self, http: httpx.Client, index: int) -> None:
        headers = {"Content-Type": "application/vnd.safetensors"}
        while not self.stopping.is_set():
            try:
                url = f"{self.url}{self._path}/{index}"
                response = http.put(url, content=body(index), headers=headers)
            except httpx.TransportError:
                status = 0
            else:
                status = response.status_code
            if status in {200, 201}:
                with self._lock:
                    self.acknowledged.add(index)
                time.sleep(PAUSE_SECONDS)
                return
            with self._lock:
                self._tally.refused += 1
            time.sleep(0.05)


def disturb(
    folder: Path, ceph: Ceph, events: Sequence[str], *, seed: int, module: str = "service"
) -> Tally:
    """Send batches through a sequence of events, and count what is lost.

    Args:
        folder: an empty folder.
        ceph: the S3 server; its gateway is killed.
        events: some of `EVENTS`, in order.
        seed: seed of the pauses.
        module: module of the server.
    """
    tally = Tally()
    url = f"s3://{ceph.bucket()}/prefix"
    data = folder / "disturbed/data"
    data.parent.mkdir()
    with ExitStack() as stack:
        proxy = stack.enter_context(faulty_proxy(ceph.endpoint))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for variable, value in {**ceph.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(variable, value)
        server = stack.enter_context(ServerProcess(data, settings={"blobs": url}, module=module))
        with httpx.Client(base_url=server.url, timeout=120) as http:
            name = Api(http).open(network())
        senders = Senders(name, tally)
        senders.url = server.url
        parts = Parts(server=server, proxy=proxy, ceph=ceph)
        _send_through(senders, parts, events, random.Random(seed))
        _count(tally, server, senders, name, data, url)
        if not tally.lost:
            total = max(senders.acknowledged) + 1
            with httpx.Client(base_url=server.url, timeout=120) as http:
                api = Api(http)
                _send_all(api, name, set(range(total)) - senders.acknowledged)
                found = _results(api, name, total)
            tally.different = found != _undisturbed(folder, total)
    return tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is disturbed."""

    server: ServerProcess
    proxy: FaultyProxy
    ceph: Ceph


def _send_through(
    senders: Senders, parts: Parts, events: Sequence[str], pauses: random.Random
) -> None:
    with ThreadPoolExecutor(SENDERS) as pool:
        tasks = [pool.submit(senders.send) for _ in range(SENDERS)]
        try:
            for event in events:
                time.sleep(pauses.uniform(0.5, 1.5))
                _happen(event, parts, pauses)
                senders._tally.events[event] += 1
            time.sleep(1)
        finally:
            senders.stopping.set()
        for task in tasks:
            task.result()


def _happen(event: str, parts: Parts, pauses: random.Random) -> None:
    if event == KILL:
        parts.server.kill()
        parts.server.start()
    elif event == GATEWAY:
        parts.ceph.gateway().kill()
        time.sleep(pauses.uniform(0, 1))
        parts.ceph.restart_gateway()
    else:
        parts.proxy.fault = Fault(event)
        time.sleep(pauses.uniform(0.5, 2.5))
        parts.proxy.fault = Fault.NONE
        parts.proxy.reset()  # also what was stalled


def _count(  # noqa: PLR0917 - the parts of one run
    tally: Tally, server: ServerProcess, senders: Senders, name: str, data: Path, url: str
) -> None:
    """Compare what was acknowledged with the rows, and the rows with the objects."""
    listed: Counter[int] = Counter()
    with httpx.Client(base_url=server.url, timeout=120) as http:
        after: str | None = "-1"
        while after is not None:
            where = {"limit": "1000"} | ({} if after == "-1" else {"after": after})
            page = http.get(f"/v1/recalibrations/{name}/batches", params=where).json()
            listed.update(one["index"] for one in page["items"])
            after = page["next"]
        samples = http.get(f"/v1/recalibrations/{name}").json()["batches"]["samples"]
    files = ObjectFiles(ObjectClient(url))
    with open_ledger(data, "") as ledger:
        held = ledger.read(expected_files).values()
    faults = sum(len(faults_of(files, contents, digests=True)) for contents in held)
    tally.acknowledged = len(senders.acknowledged)
    tally.lost = len(senders.acknowledged - set(listed)) + faults
    tally.doubled = sum(count - 1 for count in listed.values())
    tally.doubled += samples // SAMPLES - len(listed)


def _send_all(api: Api, name: str, indices: Iterable[int]) -> None:
    for index in indices:
        assert api.put(name, index, body(index)).status_code in {200, 201}


def _results(api: Api, name: str, batches: int) -> list[bytes]:
    assert api.start(name, batches).status_code == 202
    assert api.wait(name, seconds=240)["state"] == "succeeded"
    return [api.get(name, path).content for path in RESULTS]


def _undisturbed(folder: Path, batches: int) -> list[bytes]:
    (folder / "undisturbed").mkdir()
    with running(folder / "undisturbed/data", worker_threads=1) as server:
        name = server.api.open(network())
        _send_all(server.api, name, range(batches))
        return _results(server.api, name, batches)
