"""The ledger's writer: a thread that commits queued work in groups, for any database.

All waiting requests share one fsync. Each piece of work runs in its own savepoint, so a failure
does not affect the others in its group. Results are delivered after the commit is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, Protocol

from service.errors import ServiceError, StorageFailedError
from service.storage.ledger.protocol import Participant, Transaction

# A larger group only makes its first work wait longer: at this size the fsync is a small part of
# the group's time.
MAX_GROUP = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What became of one piece of work.

    Attributes:
        result: what it returned.
        raised: what it raised; its changes are rolled back then.
        enlisted: whether it enlisted a participant and was not rolled back.
    """

    result: Any = None
    raised: Exception | None = None
    enlisted: bool = False


class WriterDatabase(Protocol):
    """A connection with transactions that hold many pieces of work."""

    def begin(self) -> None:
        """Begin a transaction that excludes those of all other writers."""
        ...

    def attempt(
        self, work: Callable[[Transaction], Any], participants: dict[Participant, None]
    ) -> Outcome:
        """Run work in the transaction; an exception from it rolls back its changes only.

        Raises an error of the database that affects the whole transaction.
        """
        ...

    def commit(self) -> None:
        """Make the changes durable."""
        ...

    def rollback(self) -> None:
        """End the transaction, if there is one, without its changes."""
        ...

    def translated(self) -> AbstractContextManager[None]:
        """Return a context that translates errors of the database to those of this package."""
        ...

    def is_fatal(self, error: ServiceError) -> bool:
        """Return whether nothing may be written after an error until a restart."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Writer:
    """Owns this process's only connection that writes.

    Attributes:
        failure: why no more work is accepted; None while the writer works.
    """

    def __init__(self, database: WriterDatabase, *, on_commit: Callable[[float], None]) -> None:
        """Start the thread.

        Args:
            database: from now on used by the writer's thread only.
            on_commit: called with the duration of each transaction in seconds.
        """
        self._database = database
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
        self._database.close()

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
            with self._database.translated():
                outcomes = self._transact(group)
        except _FlushFailedError as failed:
            _fail(failed.jobs, failed.cause)
            self._commit([job for job in group if job not in failed.jobs])
        except ServiceError as error:
            if self._database.is_fatal(error):
                self.failure = f"{error.message}; restart the server"
            _fail(group, error)
        else:
            for job, outcome in zip(group, outcomes, strict=True):
                if outcome.raised is None:
                    job.future.set_result(outcome.result)
                else:
                    job.future.set_exception(outcome.raised)

    def _transact(self, group: list[_Job]) -> list[Outcome]:
        began = perf_counter()
        self._database.begin()
        participants: dict[Participant, None] = {}
        try:
            outcomes = [self._database.attempt(job.work, participants) for job in group]
            pairs = zip(group, outcomes, strict=True)
            _flush(participants, [job for job, outcome in pairs if outcome.enlisted])
            self._database.commit()
        except BaseException:
            self._database.rollback()
            # What was flushed stays: a commit that reported an error may still be durable.
            _rollback(participants)
            raise
        self._on_commit(perf_counter() - began)
        return outcomes


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
