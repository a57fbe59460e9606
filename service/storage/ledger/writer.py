"""The ledger's only writer: a thread that commits queued work in groups.

All waiting requests share one fsync. Each piece of work runs in its own savepoint, so a failure
does not affect the others in its group. Results are delivered after the commit is durable.
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
from service.storage.ledger.connection import SqliteTransaction, close, is_fatal, translated
from service.storage.ledger.protocol import Participant, Transaction

# A larger group only makes its first work wait longer: at this size the fsync is a small part of
# the group's time.
MAX_GROUP = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]


class Writer:
    """Owns the only connection that writes.

    Attributes:
        failure: why no more work is accepted; None while the writer works.
    """

    def __init__(self, connection: apsw.Connection, *, on_commit: Callable[[float], None]) -> None:
        """Start the thread.

        Args:
            connection: from now on used by the writer's thread only.
            on_commit: called with the duration of each transaction in seconds.
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
        """Commit queued work, then stop the thread and close the connection."""
        self._queue.put(None)
        self._thread.join()
        close(self._connection)

    def _run(self) -> None:
        accepting = True
        while accepting:
            group, accepting = self._next_group()
            self._commit([job for job in group if job.future.set_running_or_notify_cancel()])

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
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
            _fail(group, StorageFailedError(self.failure))
            return
        try:
            with translated():
                outcomes = self._transact(group)
        except _FlushFailedError as failed:
            _fail(failed.jobs, failed.cause)
            self._commit([job for job in group if job not in failed.jobs])
        except ServiceError as error:
            if is_fatal(error):
                self.failure = f"{error.message}; restart the server"
            _fail(group, error)
        else:
            for job, (result, raised) in zip(group, outcomes, strict=True):
                if raised is None:
                    job.future.set_result(result)
                else:
                    job.future.set_exception(raised)

    def _transact(self, group: list[_Job]) -> list[tuple[Any, Exception | None]]:
        began = perf_counter()
        self._connection.execute("BEGIN IMMEDIATE")
        participants: dict[Participant, None] = {}
        enlisting: list[_Job] = []
        try:
            outcomes = [self._attempt(job, participants, enlisting) for job in group]
            _flush(participants, enlisting)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            # What was flushed stays: a commit that reported an error may still be durable.
            _rollback(participants)
            raise
        self._on_commit(perf_counter() - began)
        return outcomes

    def _attempt(
        self, job: _Job, participants: dict[Participant, None], enlisting: list[_Job]
    ) -> tuple[Any, Exception | None]:
        self._connection.execute("SAVEPOINT job")
        tx = SqliteTransaction(self._connection, participants)
        try:
            result = job.work(tx)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError):
            raise  # affects the whole transaction, not only this work
        except Exception as error:  # noqa: BLE001 - delivered to the caller unchanged
            self._connection.execute("ROLLBACK TO job; RELEASE job")
            return None, error
        self._connection.execute("RELEASE job")
        if tx.enlisted:
            enlisting.append(job)
        return result, None


class _FlushFailedError(Exception):
    """A participant could not be flushed before the commit; the ledger itself works."""

    def __init__(self, cause: ServiceError, jobs: list[_Job]) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.jobs = jobs


def _flush(participants: Iterable[Participant], enlisting: list[_Job]) -> None:
    if not enlisting:  # all work that enlisted a participant has failed
        _rollback(participants)
        return
    try:
        for participant in participants:
            participant.flush()
    except ServiceError as error:
        raise _FlushFailedError(error, enlisting) from error


def _rollback(participants: Iterable[Participant]) -> None:
    for participant in participants:
        participant.rollback()


def _fail(group: list[_Job], error: ServiceError) -> None:
    for job in group:
        job.future.set_exception(type(error)(error.message))
