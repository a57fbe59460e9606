"""SIGKILLs of the server and of workers at random moments, under clients that try again."""

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
from tests.soak.streams import PATIENCE, Outcome, Round, Stream, in_one_call, step_by_step, until
from tests.support.server_process import ServerProcess
from tests.support.service_process import network

CLIENTS = 3
# Workers that were killed are no fault of the work here.
SETTINGS = {"worker_deaths": 1_000_000, "attempts": 1_000_000, "concurrency": 2}
Log = Callable[[dict[str, object]], None]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a soak has seen.

    Attributes:
        kills: SIGKILLs by what they hit: `server`, `starting` (a server that did not listen yet)
            or `worker`.
        rounds: what the clients saw of their recalibrations.
        different: rounds whose bytes are not those of the undisturbed run.
    """

    kills: dict[str, int] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    different: int = 0

    def summary(self) -> dict[str, object]:
        """Return the figures that count."""
        return {
            "kills": sum(self.kills.values()),
            **{f"kills_{what}": count for what, count in sorted(self.kills.items())},
            "recalibrations": len(self.rounds),
            "attempts": sum(one.attempts for one in self.rounds),
            "acknowledged": sum(one.acknowledged for one in self.rounds),
            "lost": sum(one.lost for one in self.rounds),
            "doubled": sum(one.doubled for one in self.rounds),
            "different": self.different,
        }

    @property
    def flawless(self) -> bool:
        """Tell whether nothing was lost, doubled or computed otherwise."""
        return not self.different and not any(one.lost or one.doubled for one in self.rounds)


def soak(
    folder: Path,
    *,
    kills: int,
    seed: int,
    length: int,
    log: Log,
    different: int = CLIENTS,
    longest_s: float = 5.0,
) -> Tally:
    """Kill so many times while three clients work.

    Args:
        folder: an empty folder.
        kills: how many SIGKILLs.
        seed: of the moments and targets.
        length: batches in each stream.
        log: is told of every kill.
        different: how many streams there are.
        longest_s: longest pause between two kills, in seconds.
    """
    streams = [Stream(seed=number, length=length) for number in range(different)]
    expected = undisturbed(folder, streams)
    tally = Tally()
    over = threading.Event()
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
                    over=over,
                )
                for number in range(CLIENTS)
            ]
            _kill(
                server,
                kills,
                random.Random(seed),
                longest_s=longest_s,
                clients=clients,
                tally=tally,
                log=log,
            )
        finally:
            over.set()
        for client in clients:
            client.result()
        _check_left(folder / "disturbed/data")
    return tally


def undisturbed(folder: Path, streams: list[Stream]) -> list[Outcome]:
    """Return what the streams give when nobody kills anything."""
    (folder / "undisturbed").mkdir()
    with (
        ServerProcess(folder / "undisturbed/data") as server,
        Client(server.url, patience=PATIENCE) as client,
    ):
        return [in_one_call(client, network(), stream).outcome for stream in streams]


def _work(
    url: str,
    number: int,
    *,
    streams: list[Stream],
    expected: list[Outcome],
    tally: Tally,
    over: threading.Event,
) -> None:
    """Run one recalibration after the other; at least one, however soon the kills are over."""
    turn = number
    with Client(url, patience=PATIENCE) as client:
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
            if over.is_set():
                return


def _kill(
    server: ServerProcess,
    kills: int,
    chance: random.Random,
    *,
    longest_s: float,
    clients: list[Future[None]],
    tally: Tally,
    log: Log,
) -> None:
    for number in range(kills):
        # Mostly in quick succession; sometimes long enough for a run to end.
        quick = chance.random() < 0.6
        pause = chance.uniform(0.02, 1.0) if quick else chance.uniform(1.0, longest_s)
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
                client.result()  # it only ends early by an error, which ends the soak


def _kill_worker(server: ServerProcess) -> bool:
    """Kill a worker; False when none has come within a while."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = server.workers()
        return bool(found)

    if not until(look, 3.0):
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        found[0].kill()
    return True


def _check_left(data: Path) -> None:
    """When all recalibrations have ended, no batch and no draft is left."""

    def left() -> list[Path]:
        return [*(data / "staging").iterdir(), *data.glob("recalibrations/*/batches/*")]

    assert until(lambda: not left(), 10.0), left()


def to_stderr(line: dict[str, object]) -> None:
    """Write a line of the log."""
    sys.stderr.write(json.dumps(line) + "\n")
