"""Disturb two replicas, two runners, PostgreSQL with its standby, and S3, under senders.

The senders put small batches into one recalibration after the other, some of them twice, and
repeat each request until it is acknowledged, alternately on both replicas. When a recalibration is
complete, its rows and its objects are compared with what was acknowledged; then it is started, and
a runner computes its result in two shards while the next one is filled. All recalibrations have the
same batches, so their results must be those of an undisturbed embedded server, which computes them
in one worker, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from service.admin.blob_files import ObjectFiles
from service.admin.check import faults_of
from service.repositories import batches as batch_rows
from service.repositories.records import StoredBatch, Stream
from service.storage.blobs.object_client import ObjectClient
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.maintenance import open_ledger
from service.storage.ledger.protocol import Transaction
from tests.support.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.support.postgres import Cluster, running_cluster
from tests.support.s3 import Ceph
from tests.support.server_process import ServerProcess
from tests.support.service_http import Api, safetensors
from tests.support.service_process import images, network, running
from tests.support.waiting import until

SAMPLES = 2
SENDERS = 8
# Batches that are acknowledged between two events.
PROGRESS = 30
# Each of these batches is sent again after it was acknowledged, to the other replica.
RESEND_EVERY = 10
RESULTS = ("/model", "/statistics")
REPLICA, RUNNER, DATABASE = "replica", "runner", "database"
STANDBY, GATEWAY, STALL, SHARD = "standby", "gateway", "stall", "shard"
EVENTS = (REPLICA, RUNNER, DATABASE, GATEWAY, STALL, SHARD)
"""What may happen any number of times; `STANDBY` may happen once."""

_SETTINGS = {
    "worker_threads": 1,
    "runs_memory_bytes": 1 << 36,
    "lease_seconds": 3.0,
    "poll_seconds": 0.2,
    "run_retry_seconds": 0.2,
    "max_attempts": 1000,
    "max_worker_crashes": 1000,
}
_SHARDS = 2
_PATIENCE_SECONDS = 180.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """Results of a run.

    Attributes:
        events: number of each kind of event.
        refused: number of requests that were answered with an error, or not at all.
        acknowledged: number of batches that were acknowledged, without repetitions.
        repeated: number of batches that were sent again after they were acknowledged.
        lost: number of those whose row or content is missing afterwards.
        doubled: number of batches that are stored and were never sent, or are counted twice.
        recalibrations: number of complete recalibrations.
        different: number of those whose result has other bytes than that of an undisturbed run.
        attempts: number of runs of the recalibrations, with those that were interrupted.
        replaced: number of shards that were replaced within a run.
        seconds: time in which batches were sent.
    """

    events: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    acknowledged: int = 0
    repeated: int = 0
    lost: int = 0
    doubled: int = 0
    recalibrations: int = 0
    different: int = 0
    attempts: int = 0
    replaced: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, object]:
        """Return the results as a JSON object."""
        names = (
            *("refused", "acknowledged", "repeated", "lost", "doubled"),
            *("recalibrations", "different", "attempts", "replaced"),
        )
        found = {"events": dict(self.events), "seconds": round(self.seconds, 1)}
        return found | {name: getattr(self, name) for name in names}

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled or computed differently."""
        return (self.lost, self.doubled, self.different) == (0, 0, 0)


@cache
def body(index: int) -> bytes:
    """Return a batch."""
    return safetensors(x=images(index, samples=SAMPLES))


class RunnerProcess:
    """A runner with a data folder of its own."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self._folder = folder
        given = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        given |= {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        given |= {f"BNRECAL_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = given
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process without waiting."""
        with self._folder.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service", "--runner", "--data-dir", str(self._folder)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
            )

    def start_if_ended(self) -> None:
        """Start the process again if it has found no database at its start."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def shards(self) -> list[psutil.Process]:
        """Return the workers that measure shards of a run, where there is one now."""
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = psutil.Process(self._process.pid).children()
            # The one that assembles the results is started before them.
            oldest_first = sorted(workers, key=lambda one: (one.create_time(), one.pid))
            return oldest_first[1:] if len(workers) > _SHARDS else []
        return []

    def replaced(self) -> int:
        """Return how many shards have been replaced."""
        log = self._folder.with_suffix(".log")
        return log.read_text().count("was lost and is replaced") if log.exists() else 0


class LostRecalibrationError(Exception):
    """A recalibration that was created does not exist."""


class Senders:
    """Threads that send the batches of the current recalibration."""

    def __init__(self, urls: Sequence[str], length: int, tally: Tally) -> None:
        self._urls = urls
        self._length = length
        self._tally = tally
        self._changed = threading.Condition()
        self._name = ""
        self._next = length
        self.acknowledged: set[int] = set()
        self.stopping = threading.Event()

    def fill(self, name: str) -> bool:
        """Send all batches of a recalibration; return False if the senders stopped before."""
        with self._changed:
            self.acknowledged.clear()
            self._name, self._next = name, 0
            self._changed.notify_all()
            while len(self.acknowledged) < self._length and not self.stopping.is_set():
                self._changed.wait(0.1)
            return len(self.acknowledged) == self._length

    def send(self, number: int) -> None:
        """Send until `stopping` is set; `number` chooses the first replica."""
        with contextlib.closing(_Sender(self._urls, number)) as sender:
            while (task := self._take()) is not None:
                try:
                    self._put(sender, *task)
                except LostRecalibrationError:
                    with self._changed:
                        self._tally.lost += 1
                    self.stopping.set()

    def _take(self) -> tuple[str, int] | None:
        with self._changed:
            while self._next >= self._length and not self.stopping.is_set():
                self._changed.wait(0.1)
            if self.stopping.is_set():
                return None
            self._next += 1
            return self._name, self._next - 1

    def _put(self, sender: _Sender, name: str, index: int) -> None:
        while not sender.put(name, index):
            if self.stopping.is_set():
                return
            with self._changed:
                self._tally.refused += 1
            time.sleep(0.02)
        repeated = index % RESEND_EVERY == 0
        with self._changed:
            self.acknowledged.add(index)
            self._tally.acknowledged += 1
            self._tally.repeated += repeated
            if len(self.acknowledged) == self._length:
                self._changed.notify_all()
        if repeated:
            sender.change_replica()
            sender.put(name, index)


class _Sender:
    """Sends with one connection at a time, to the other replica after each failure."""

    def __init__(self, urls: Sequence[str], number: int) -> None:
        self._urls = urls
        self._number = number
        self._connection: http.client.HTTPConnection | None = None

    def put(self, name: str, index: int) -> bool:
        """Return whether a batch was acknowledged.

        Raises:
            LostRecalibrationError: there is no such recalibration any more.
            AssertionError: the server answered that another batch has this index.
        """
        try:
            if self._connection is None:
                url = urlsplit(self._urls[self._number % len(self._urls)])
                self._connection = http.client.HTTPConnection(url.netloc, timeout=60)
            path = f"/v1/recalibrations/{name}/batches/{index}"
            headers = {"Content-Type": "application/vnd.safetensors"}
            self._connection.request("PUT", path, body=body(index), headers=headers)
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self.change_replica()
            return False
        assert response.status != httpx.codes.CONFLICT, f"{name}/{index}"
        if response.status == httpx.codes.NOT_FOUND:
            raise LostRecalibrationError(name)
        if response.status in {httpx.codes.OK, httpx.codes.CREATED}:
            return True
        self.change_replica()
        return False

    def change_replica(self) -> None:
        """Use the other replica from now on."""
        self.close()
        self._number += 1

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Control:
    """Requests that are repeated until a replica answers them."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._http = [httpx.Client(base_url=url, timeout=60) for url in urls]

    def close(self) -> None:
        """Close the connections."""
        for one in self._http:
            one.close()

    def open(self, key: str) -> str:
        """Create a recalibration; the key names it for repetitions."""
        kind = {"Content-Type": "application/x-onnx"}
        sent = self._ask(lambda to: to.post("/v1/models", content=network(), headers=kind))
        wanted, headers = {"model": sent.json()["id"]}, {"Idempotency-Key": key}
        return str(
            self._ask(
                lambda to: to.post("/v1/recalibrations", json=wanted, headers=headers)
            ).json()["id"]
        )

    def start(self, name: str, batches: int) -> None:
        """Start a recalibration, unless that has happened."""
        wanted = {"batches": batches}
        path = f"/v1/recalibrations/{name}"

        def started(to: httpx.Client) -> httpx.Response:
            found = to.get(path)
            if found.is_success and found.json()["state"] != "open":
                return found
            return to.post(f"{path}/start", json=wanted)

        self._ask(started)

    def listed(self, name: str) -> tuple[list[dict[str, Any]], int]:
        """Return the listed batches and the number of samples that are counted."""
        found: list[dict[str, Any]] = []
        path, after = f"/v1/recalibrations/{name}", ""
        while True:
            response = self.get(f"{path}/batches?limit=1000{after}")
            if response.status_code == httpx.codes.NOT_FOUND:
                return [], 0
            page = response.json()
            found += page["items"]
            if page["next"] is None:
                return found, int(self.get(path).json()["batches"]["samples"])
            after = f"&after={page['next']}"

    def get(self, path: str) -> httpx.Response:
        """Return the response to a GET, which may be that there is no such resource."""
        return self._ask(lambda to: to.get(path))

    def _ask(self, request: Callable[[httpx.Client], httpx.Response]) -> httpx.Response:
        last: list[object] = []

        def answered() -> httpx.Response | None:
            for one in self._http:
                with contextlib.suppress(httpx.TransportError):
                    response = request(one)
                    if response.is_success or response.status_code == httpx.codes.NOT_FOUND:
                        return response
                    last[:] = [response.text]
            return None

        found = until(answered, lambda: f"no replica answers: {last}", seconds=_PATIENCE_SECONDS)
        assert found is not None
        return found


@dataclass(slots=True, kw_only=True)
class Deployment:
    """What is disturbed.

    Attributes:
        servers, runners: the processes.
        primary: the database that is written.
        standby: its synchronous standby; None after it was promoted.
        ceph, proxy: the object store, and the proxy in front of it.
        ledger, blobs: the URLs of the settings.
    """

    servers: Sequence[ServerProcess]
    runners: Sequence[RunnerProcess]
    primary: Cluster
    standby: Cluster | None
    ceph: Ceph
    proxy: FaultyProxy
    ledger: str
    blobs: str

    def happen(self, event: str, pauses: random.Random) -> None:
        """Let something happen, and start again what was killed."""
        if event == REPLICA:
            server = pauses.choice(self.servers)
            server.kill()
            server.start()
        elif event == RUNNER:
            runner = pauses.choice(self.runners)
            runner.kill()
            runner.start()
        elif event == DATABASE:
            self.primary.kill()
            self.primary.start_again()
        elif event == STANDBY:
            assert self.standby is not None
            self.primary.kill()
            self.standby.promote()
            self.primary, self.standby = self.standby, None
        elif event == SHARD:
            self._kill_shard(pauses)
        elif event == GATEWAY:
            self.ceph.gateway().kill()
            self.ceph.restart_gateway()
        else:
            assert event == STALL
            self.proxy.fault = Fault.STALL
            time.sleep(pauses.uniform(0.5, 3.0))
            self.proxy.fault = Fault.NONE
            self.proxy.reset()  # what is stalled

    def _kill_shard(self, pauses: random.Random) -> None:
        """Wait until a runner measures shards, and kill the worker of one."""

        def found() -> list[psutil.Process]:
            return [shard for runner in self.runners for shard in runner.shards()]

        shards = until(found, lambda: "no run is measured", seconds=_PATIENCE_SECONDS)
        with contextlib.suppress(psutil.NoSuchProcess):
            pauses.choice(shards).kill()


@contextmanager
def deployed(
    folder: Path, ceph: Ceph, *, module: str = "service", **database: str
) -> Iterator[Deployment]:
    """Run two replicas and two runners on PostgreSQL with a synchronous standby, and on S3.

    Args:
        folder: an empty folder.
        ceph: the S3 server.
        module: module of the replicas.
        database: settings of PostgreSQL.
    """
    with ExitStack() as stack:
        primary = stack.enter_context(
            running_cluster(wal_retrieve_retry_interval="100", **database)
        )
        name = primary.create().rpartition("/")[2]
        standby = stack.enter_context(primary.standby())
        primary.synchronous("*")
        proxy = stack.enter_context(faulty_proxy(ceph.endpoint))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for variable, value in {**ceph.environment, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(variable, value)
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in (primary, standby))
        ledger = f"postgresql://bnrecal@{hosts}/{name}?target_session_attrs=read-write"
        blobs = f"s3://{ceph.bucket()}/prefix"
        settings: dict[str, object] = {**_SETTINGS, "ledger": ledger, "blobs": blobs}
        servers = [
            stack.enter_context(
                ServerProcess(
                    folder / f"replica{number}",
                    settings={**settings, "max_concurrent_runs": 0},
                    module=module,
                )
            )
            for number in range(2)
        ]
        sharded = {**settings, "shards": _SHARDS}
        runners = [RunnerProcess(folder / f"runner{number}", sharded) for number in range(2)]
        for runner in runners:
            stack.callback(runner.kill)
            runner.start()
        yield Deployment(
            servers=servers,
            runners=runners,
            primary=primary,
            standby=standby,
            ceph=ceph,
            proxy=proxy,
            ledger=ledger,
            blobs=blobs,
        )


def disturb(
    folder: Path,
    deployment: Deployment,
    events: Sequence[str],
    *,
    seed: int,
    length: int,
    complete: int = 2,
    connections: int = SENDERS,
    progress: int = PROGRESS,
) -> Tally:
    """Send batches through a sequence of events, and count what is lost.

    Args:
        folder: an empty folder.
        deployment: what is disturbed.
        events: some of `EVENTS`, in order.
        seed: seed of the pauses and the targets.
        length: batches of a recalibration.
        complete: recalibrations that must be complete before the senders stop.
        connections: number of senders.
        progress: batches that are acknowledged between two events.
    """
    tally = Tally()
    urls = [one.url for one in deployment.servers]
    senders = Senders(urls, length, tally)
    pauses = random.Random(seed)
    began = time.monotonic()
    with contextlib.closing(Control(urls)) as control, ThreadPoolExecutor(connections + 1) as pool:
        filling = pool.submit(_fill, deployment, control, senders, tally, length)
        sending = [pool.submit(senders.send, number) for number in range(connections)]
        try:
            for event in events:
                _wait_for_progress(tally, progress)
                time.sleep(pauses.uniform(0.0, 0.7))
                deployment.happen(event, pauses)
                for runner in deployment.runners:
                    runner.start_if_ended()
                tally.events[event] += 1
            until(
                lambda: tally.recalibrations >= complete or tally.lost or filling.done(),
                lambda: f"too few recalibrations are complete: {tally}",
                seconds=_PATIENCE_SECONDS,
            )
        finally:
            senders.stopping.set()
        for task in sending:
            task.result()
        started = filling.result()
        for runner in deployment.runners:
            runner.start_if_ended()
        tally.seconds = time.monotonic() - began
        if started and not tally.lost:
            _compare(folder, control, started, tally, length)
        tally.replaced = sum(runner.replaced() for runner in deployment.runners)
    return tally


def _wait_for_progress(tally: Tally, batches: int) -> None:
    """Wait until some more batches are acknowledged, or until it is known that some are lost."""
    before = tally.acknowledged
    until(
        lambda: tally.acknowledged >= before + batches or tally.lost,
        lambda: f"nothing is acknowledged: {tally}",
        seconds=_PATIENCE_SECONDS,
    )


def _fill(
    deployment: Deployment, control: Control, senders: Senders, tally: Tally, length: int
) -> list[str]:
    """Fill and start one recalibration after the other; return those that were started."""
    started: list[str] = []
    while not senders.stopping.is_set():
        name = control.open(f"recalibration {len(started)}")
        complete = senders.fill(name)
        _count(deployment, control, name, senders, tally)
        if complete and not tally.lost:
            control.start(name, length)
            started.append(name)
            tally.recalibrations += 1
    return started


def _count(
    deployment: Deployment, control: Control, name: str, senders: Senders, tally: Tally
) -> None:
    """Compare what was acknowledged with the rows, and the rows with the objects."""
    # An upload whose connection was lost may still be stored; it is not among the acknowledged.
    acknowledged = set(senders.acknowledged)
    listed, samples = control.listed(name)
    right = {one["index"] for one in listed if one["sha256"] == _sha256(one["index"])}
    tally.lost += len(acknowledged - right)
    tally.doubled += len(listed) - len(right)
    if senders.stopping.is_set():
        # Senders may still be sending: rows and their count are of different moments.
        samples = SAMPLES * len(listed)
    tally.doubled += abs(samples // SAMPLES - len(listed))
    tally.lost += _damaged_objects(deployment, name)


@cache
def _sha256(index: int) -> str:
    return hashlib.sha256(body(index)).hexdigest()


def _damaged_objects(deployment: Deployment, name: str) -> int:
    """Return the number of batches whose object is missing or has other content."""

    def contents(tx: Transaction) -> list[BlobContent]:
        rows: list[StoredBatch] = batch_rows.page(tx, name, Stream.TARGET, after=-1, limit=1 << 30)
        return [batch_rows.content(name, one) for one in rows]

    def read() -> dict[str, list[BlobContent]] | None:
        with contextlib.suppress(Exception), open_ledger(Path(), deployment.ledger) as ledger:
            found: dict[str, list[BlobContent]] = {}
            for one in ledger.read(contents):
                found.setdefault(one.key, []).append(one)
            return found
        return None

    held = until(lambda: [found] if (found := read()) is not None else [], seconds=60)[0]
    files = ObjectFiles(ObjectClient(deployment.blobs))
    damaged = 0
    for found in held.values():
        faults: list[object] = []

        def checked(found: list[BlobContent] = found, faults: list[object] = faults) -> bool:
            with contextlib.suppress(Exception):  # the gateway is killed or stalled
                faults[:] = faults_of(files, found, digests=True)
                return True
            return False

        until(checked, lambda: "the object store does not respond", seconds=_PATIENCE_SECONDS)
        damaged += len(found) if faults else 0
    return damaged


def _compare(
    folder: Path, control: Control, names: Sequence[str], tally: Tally, length: int
) -> None:
    """Wait for the results, and compare them with those of an undisturbed server."""
    for name in names:
        path = f"/v1/recalibrations/{name}"
        until(
            lambda: control.get(path).json()["state"] not in {"sealed", "queued", "running"},  # noqa: B023 - called at once
            lambda: control.get(path).text,  # noqa: B023 - called at once
            seconds=_PATIENCE_SECONDS,
            pause=0.2,
        )
        found = control.get(path).json()
        assert found["state"] == "succeeded", found
        tally.attempts += found["attempts"]
    expected = _undisturbed(folder, length)
    for name in names:
        results = [control.get(f"/v1/recalibrations/{name}{one}").content for one in RESULTS]
        tally.different += results != expected


def _undisturbed(folder: Path, batches: int) -> list[bytes]:
    (folder / "undisturbed").mkdir()
    with running(folder / "undisturbed/data", worker_threads=1) as server:
        api: Api = server.api
        name = api.open(network())
        for index in range(batches):
            assert api.put(name, index, body(index)).status_code == 201
        assert api.start(name, batches).status_code == 202
        assert api.wait(name, seconds=_PATIENCE_SECONDS)["state"] == "succeeded"
        return [api.get(name, path).content for path in RESULTS]
