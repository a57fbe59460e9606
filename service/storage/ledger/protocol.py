"""The interface of the ledger's database.

The SQL text lives in `service.repositories`. It uses named parameters and only constructs that
SQLite and PostgreSQL share; everything that is specific to one database stays behind this
interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from service.errors import ServiceError

Value = str | int | float | bytes | None
Row = Mapping[str, Value]
Parameters = Mapping[str, Value]
Fetched = Callable[[], list[list[Row]]]
"""Waits for the rows of each set of parameters of a query."""

T = TypeVar("T")
Item = TypeVar("Item")


class Transaction(Protocol):
    """One consistent view; inside `Ledger.write` also one unit of change."""

    def rows(self, query: str, **parameters: Value) -> list[Row]:
        """Run a query and return its rows, each by column name."""
        ...

    def row(self, query: str, **parameters: Value) -> Row | None:
        """Run a query and return its first row, or None."""
        ...

    def change(self, query: str, **parameters: Value) -> int:
        """Run a change and return the number of affected rows."""
        ...

    def submit(self, query: str, **parameters: Value) -> None:
        """Run a change whose number of rows is not needed.

        Its error may be raised by a later call, or when the work ends.
        """
        ...

    def insert_all(self, query: str, sets: Sequence[Parameters]) -> None:
        """Insert a row for each set of parameters, in one statement where that is faster.

        Errors are raised as by `submit`.

        Args:
            query: an INSERT of one row, whose values are named parameters only.
            sets: sets of parameters with the same names.
        """
        ...

    def fetch(self, query: str, sets: Sequence[Parameters]) -> Fetched:
        """Send a query once for all sets of parameters, without waiting for its rows.

        A distant database then needs one round trip for several queries. Call the result before
        anything is changed.

        Args:
            query: the query.
            sets: sets of parameters with the same names.
        """
        ...

    def clock(self) -> float:
        """Return the time of the database in seconds; all processes that share it agree on it."""
        ...

    def notify(self, topic: str) -> None:
        """Report a change of a topic to the listeners of all processes, once it is durable.

        A database without notifications does nothing; listeners must look from time to time.
        """
        ...


class Participant(Protocol):
    """A store outside the database that takes part in a transaction; internal to storage."""

    def flush(self) -> None:
        """Make durable what was stored since the last flush.

        Raises:
            StorageFullError, StorageFailedError: it is unknown what is durable.
        """
        ...

    def rollback(self) -> None:
        """Remove what was stored and not flushed; has no effect if there is nothing."""
        ...


@runtime_checkable
class EnlistingTransaction(Transaction, Protocol):
    """A transaction that flushes participants before its commit; internal to storage."""

    def enlist(self, participant: Participant) -> None:
        """Flush a participant before the commit, or roll it back if that fails.

        When the flush fails, only the work that enlisted the participant fails. Inside
        `Ledger.write` only.
        """
        ...


class Ledger(Protocol):
    """Runs work against the ledger.

    Work is a plain function of a transaction. It may run on any thread, and again after its changes
    were rolled back. It must not block on anything else, and must not keep the transaction.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work and return its result once its changes, and all that it read, are durable.

        An exception from `work` rolls back its changes only, and is raised here.

        Raises:
            StorageFullError: no space is left; nothing changed.
            CapacityError: other processes kept the ledger busy; nothing changed.
            StorageFailedError: the ledger could not be written. Nothing was acknowledged, and
                nothing will be until a restart.
        """
        ...

    async def write_together(
        self, work: Callable[[Transaction, Sequence[Item]], Sequence[T | ServiceError]], item: Item
    ) -> T:
        """Run work on an item and on those that wait for the same work; return what becomes of it.

        Args:
            work: gets the items, and returns the result or the error of each in their order. What
                it raises concerns all of them, and rolls back the changes.
            item: the item.

        Raises:
            ServiceError: the one that `work` returned for the item, or those of `write`.
        """
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on a consistent view.

        What it finds survives a crash of the database, but not always a failover: a synchronous
        standby may lack it yet. What is acknowledged to a client is therefore read by `write`.
        """
        ...

    async def leads(self) -> bool:
        """Return whether this process does the work that one process does for all.

        At most one of the processes that share the ledger leads. When it ends, another one that
        asks takes over.
        """
        ...

    def listen(self, notify: Callable[[str], None]) -> None:
        """Call a function, in any thread, with the topics that processes report."""
        ...

    async def warnings(self) -> list[str]:
        """Return why a failure of the database may lose acknowledged data; empty if it cannot."""
        ...

    @property
    def version(self) -> str:
        """Name and version of the database."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the ledger accepts no more writes; None while it works."""
        ...

    def close(self) -> None:
        """Finish the accepted writes and close the database."""
        ...
