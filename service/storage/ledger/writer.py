"""The ledger's writer: a thread that commits queued work in groups, for any database.

All waiting requests share one fsync. Each piece of work runs in its own savepoint, so a failure
does not affect the others in its group; items of the same work are one piece. Results are delivered
after the commit is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


Work = Callable[[Transaction], Any]
WorkOnItems = Callable[[Transaction, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """Work that waits, or one item of work that many share."""

    future: Future[Any]
    work: Work | None = None
    work_on_items: WorkOnItems | None = None
    item: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    """What runs in one savepoint, and the jobs whose results it gives."""

    work: Work
    jobs: Sequence[_Job]
    has_items: bool

    def deliver(self, outcome: Outcome) -> None:
        """Resolve the futures of the jobs."""
        if outcome.raised is not None:
            for job in self.jobs:
                job.future.set_exception(_copy(outcome.raised, len(self.jobs)))
            return
        results = outcome.result if self.has_items else (outcome.result,)
        for job, result in zip(self.jobs, results, strict=True):
            if self.has_items and isinstance(result, ServiceError):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)


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

    def attempt(self, work: Work, participants: dict[Participant, None]) -> Outcome:
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

    def submit(self, work: Work) -> Future[Any]:
        """Queue work; its future is resolved after the commit."""
        future: Future[Any] = Future()
        self._queue.put(_Job(work=work, future=future))
        return future

    def submit_item(self, work: WorkOnItems, item: object) -> Future[Any]:
        """Queue an item; the work runs once for all items of a group that name it.

        Where the work returns a `ServiceError` for an item, its future raises it.
        """
        future: Future[Any] = Future()
        self._queue.put(_Job(work_on_items=work, item=item, future=future))
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
        pieces = _pieces(group)
        try:
            with self._database.translated():
                outcomes = self._transact(pieces)
        except _FlushFailedError as failed:
            _fail(failed.jobs, failed.cause)
            self._commit([job for job in group if job not in failed.jobs])
        except ServiceError as error:
            if self._database.is_fatal(error):
                self.failure = f"{error.message}; restart the server"
            _fail(group, error)
        else:
            for piece, outcome in zip(pieces, outcomes, strict=True):
                piece.deliver(outcome)

    def _transact(self, pieces: Sequence[_Piece]) -> list[Outcome]:
        began = perf_counter()
        self._database.begin()
        participants: dict[Participant, None] = {}
        try:
            outcomes = [self._database.attempt(piece.work, participants) for piece in pieces]
            pairs = zip(pieces, outcomes, strict=True)
            enlisting = [job for piece, outcome in pairs if outcome.enlisted for job in piece.jobs]
            _flush(participants, enlisting)
            self._database.commit()
        except BaseException:
            self._database.rollback()
            # What was flushed stays: a commit that reported an error may still be durable.
            _rollback(participants)
            raise
        self._on_commit(perf_counter() - began)
        return outcomes


def _pieces(group: Sequence[_Job]) -> list[_Piece]:
    """Return what to run: all items of the same work are one piece, where the first of them is."""
    found: list[_Piece | list[_Job]] = []
    sharing: dict[WorkOnItems, list[_Job]] = {}
    for job in group:
        if job.work is not None:
            found.append(_Piece(work=job.work, jobs=(job,), has_items=False))
        elif job.work_on_items in sharing:
            sharing[job.work_on_items].append(job)
        else:
            assert job.work_on_items is not None
            sharing[job.work_on_items] = [job]
            found.append(sharing[job.work_on_items])
    return [one if isinstance(one, _Piece) else _piece_of_items(one) for one in found]


def _piece_of_items(jobs: Sequence[_Job]) -> _Piece:
    work, items = jobs[0].work_on_items, [job.item for job in jobs]
    assert work is not None
    return _Piece(work=lambda tx: work(tx, items), jobs=jobs, has_items=True)


def _copy(error: Exception, jobs: int) -> Exception:
    """Return an error for one of several jobs: each that raises it adds its own traceback."""
    if jobs == 1 or not isinstance(error, ServiceError):
        return error
    return type(error)(error.message, **error.details)


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


def _fail(group: Sequence[_Job], error: ServiceError) -> None:
    for job in group:
        job.future.set_exception(type(error)(error.message))
