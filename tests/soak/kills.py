"""Kill the server and its workers at random moments while clients retry."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bnrecal_client import Client
from tests.soak.streams import (
    RETRY,
    Outcome,
    Round,
    Stream,
    in_one_call,
    step_by_step,
    wait_until,
)
from tests.support.server_process import ServerProcess
from tests.support.service_process import network

CLIENTS = 3
# Killed workers must not exhaust the limits on crashes and attempts.
SETTINGS = {"max_worker_crashes": 1_000_000, "max_attempts": 1_000_000, "max_concurrent_runs": 2}
Log = Callable[[dict[str, object]], None]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Results of a soak run.

    Attributes:
        kills: number of SIGKILLs per target: `server`, `starting` (a server that was not listening
            yet) or `worker`.
        rounds: the recalibrations of the clients.
        different: number of rounds whose bytes differ from those of the undisturbed run.
    """

    kills: dict[str, int] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    different: int = 0

    def summary(self) -> dict[str, object]:
        """Return the totals as a JSON object."""
        return {
            "kills": sum(self.kills.values()),
            **{f"kills_{what}": count for what, count in sorted(self.kills.items())},
            "recalibrations": len(self.rounds),
            "attempts": sum(one.attempts for one in self.rounds),
            "acknowledged": sum(one.acknowledged for one in self.rounds),
            "lost": sum(one.lost for one in self.rounds),
            "duplicated": sum(one.duplicated for one in self.rounds),
            "different": self.different,
        }

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, duplicated or computed differently."""
        return not self.different and not any(one.lost or one.duplicated for one in self.rounds)


def soak(
    folder: Path,
    *,
    kills: int,
    seed: int,
    length: int,
    log: Log,
    stream_count: int = CLIENTS,
    max_pause_s: float = 5.0,
) -> Tally:
    """Send `kills` SIGKILLs while three clients work.

    Args:
        folder: an empty folder.
        kills: number of SIGKILLs.
        seed: seed of the times and targets.
        length: number of batches per stream.
        log: called with a JSON object for every kill.
        stream_count: number of different streams.
        max_pause_s: maximum pause between two kills, in seconds.
    """
    streams = [Stream(seed=number, length=length) for number in range(stream_count)]
    expected = undisturbed(folder, streams)
    tally = Tally()
    stopping = threading.Event()
    (folder / "disturbed").mkdir()
    server = ServerProcess(folder / "disturbed/data", settings=SETTINGS)
    with server, ThreadPoolExecutor(CLIENTS) as pool:
        try:
            clients = [
                pool.submit(
                    _work,
                    server.url,
                    number,
                    streams=streams,
                    expected=expected,
                    tally=tally,
                    stopping=stopping,
                )
                for number in range(CLIENTS)
            ]
            _kill(
                server,
                kills,
                random.Random(seed),
                max_pause_s=max_pause_s,
                clients=clients,
                tally=tally,
                log=log,
            )
        finally:
            stopping.set()
        for client in clients:
            client.result()
        _check_cleanup(folder / "disturbed/data")
    return tally


def undisturbed(folder: Path, streams: list[Stream]) -> list[Outcome]:
    """Return the results of the streams without any kill."""
    (folder / "undisturbed").mkdir()
    with (
        ServerProcess(folder / "undisturbed/data") as server,
        Client(server.url, retry=RETRY) as client,
    ):
        return [in_one_call(client, network(), stream).outcome for stream in streams]


def _work(
    url: str,
    number: int,
    *,
    streams: list[Stream],
    expected: list[Outcome],
    tally: Tally,
    stopping: threading.Event,
) -> None:
    """Run recalibrations one after another until `stopping` is set, but at least one."""
    turn = number
    with Client(url, retry=RETRY) as client:
        model = client.upload(network()).id
        while True:
            which = turn % len(streams)
            if turn % 2:
                found = in_one_call(client, network(), streams[which])
            else:
                found = step_by_step(client, model, streams[which])
            tally.rounds.append(found)
            tally.different += found.outcome != expected[which]
            turn += 1
            if stopping.is_set():
                return


def _kill(
    server: ServerProcess,
    kills: int,
    chance: random.Random,
    *,
    max_pause_s: float,
    clients: list[Future[None]],
    tally: Tally,
    log: Log,
) -> None:
    for number in range(kills):
        # Mostly in quick succession; sometimes long enough for a run to complete.
        quick = chance.random() < 0.6
        pause = chance.uniform(0.02, 1.0) if quick else chance.uniform(1.0, max_pause_s)
        time.sleep(pause)
        what = chance.choices(("server", "starting", "worker"), (5, 1, 4))[0]
        if what == "worker" and not _kill_worker(server):
            what = "server"
        if what == "starting":
            server.kill()
            server.spawn()
            time.sleep(chance.uniform(0.0, 1.5))
        if what != "worker":
            server.kill()
            server.start()
        tally.kills[what] = tally.kills.get(what, 0) + 1
        log({"kill": number, "of": what, "after": round(pause, 3), "rounds": len(tally.rounds)})
        for client in clients:
            if client.done():
                client.result()  # a client returns early only on an error, which ends the soak


def _kill_worker(server: ServerProcess) -> bool:
    """Kill a worker; return False if none started in time."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = server.workers()
        return bool(found)

    if not wait_until(look, 3.0):
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        found[0].kill()
    return True


def _check_cleanup(data: Path) -> None:
    """Check that no batch and no draft is left after all recalibrations have ended."""

    def left() -> list[Path]:
        return [*(data / "staging").glob("*/*"), *data.glob("recalibrations/*/batches/*")]

    assert wait_until(lambda: not left(), 60.0), left()


def to_stderr(line: dict[str, object]) -> None:
    """Write a JSON line to standard error."""
    sys.stderr.write(json.dumps(line) + "\n")
