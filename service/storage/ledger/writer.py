"""The one writer: a thread that drains a queue into one transaction (group commit).

However many requests wait, they share one fsync. Each piece of work runs in its own savepoint, so
that one refusal undoes nothing of its neighbours. Nobody hears of success before the commit is on
the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

import apsw

from service.errors import ServiceError, StorageFailedError
from service.storage.ledger.connection import SqliteTransaction, close, poisons, translated
from service.storage.ledger.protocol import Partner, Transaction

# More would only make the first in the group wait longer: one fsync is by then a small part of the
# group's time.
LARGEST_GROUP = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]


class Writer:
    """Owns the only connection that writes."""

    def __init__(self, connection: apsw.Connection, *, on_commit: Callable[[float], None]) -> None:
        """Take over a connection.

        Args:
            connection: used by the writer's thread alone from now on.
            on_commit: told how many seconds each transaction took.
        """
        self._connection = connection
        self._on_commit = on_commit
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="ledger-writer", daemon=True)
        self.failure: str | None = None
        self._thread.start()

    def submit(self, work: Callable[[Transaction], Any]) -> Future[Any]:
        """Queue work; its future is resolved after the commit."""
        future: Future[Any] = Future()
        self._queue.put(_Job(work=work, future=future))
        return future

    def close(self) -> None:
        """Commit what is queued, then stop and close the connection."""
        self._queue.put(None)
        self._thread.join()
        close(self._connection)

    def _run(self) -> None:
        open_for_more = True
        while open_for_more:
            group, open_for_more = self._next_group()
            self._commit([job for job in group if job.future.set_running_or_notify_cancel()])

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) == LARGEST_GROUP:
                return group, True
            try:
                job = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Job]) -> None:
        if not group:
            return
        if self.failure is not None:
            _refuse(group, StorageFailedError(self.failure))
            return
        try:
            with translated():
                answers = self._transact(group)
        except _UnsettledError as unsettled:
            _refuse(unsettled.jobs, unsettled.cause)
            self._commit([job for job in group if job not in unsettled.jobs])
        except ServiceError as error:
            if poisons(error):
                self.failure = f"{error.message}; restart the server"
            _refuse(group, error)
        else:
            for job, (result, refusal) in zip(group, answers, strict=True):
                if refusal is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(refusal)

    def _transact(self, group: list[_Job]) -> list[tuple[Any, Exception | None]]:
        began = perf_counter()
        self._connection.execute("BEGIN IMMEDIATE")
        partners: dict[Partner, None] = {}
        joined: list[_Job] = []
        try:
            answers = [self._attempt(job, partners, joined) for job in group]
            _settle(partners, joined)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            # What was settled stays: a commit that failed may be on the disk all the same.
            _abandon(partners)
            raise
        self._on_commit(perf_counter() - began)
        return answers

    def _attempt(
        self, job: _Job, partners: dict[Partner, None], joined: list[_Job]
    ) -> tuple[Any, Exception | None]:
        self._connection.execute("SAVEPOINT job")
        tx = SqliteTransaction(self._connection, partners)
        try:
            result = job.work(tx)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError):
            raise  # the whole transaction is in doubt, not this piece of work
        except Exception as refusal:  # noqa: BLE001 - handed to whoever asked, unchanged
            self._connection.execute("ROLLBACK TO job; RELEASE job")
            return None, refusal
        self._connection.execute("RELEASE job")
        if tx.joined:
            joined.append(job)
        return result, None


class _UnsettledError(Exception):
    """What had to be durable before the commit is not; the ledger itself is well."""

    def __init__(self, cause: ServiceError, jobs: list[_Job]) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.jobs = jobs


def _settle(partners: Iterable[Partner], joined: list[_Job]) -> None:
    if not joined:  # all who joined were refused
        _abandon(partners)
        return
    try:
        for partner in partners:
            partner.settle()
    except ServiceError as error:
        raise _UnsettledError(error, joined) from error


def _abandon(partners: Iterable[Partner]) -> None:
    for partner in partners:
        partner.abandon()


def _refuse(group: list[_Job], error: ServiceError) -> None:
    for job in group:
        job.future.set_exception(type(error)(error.message))
