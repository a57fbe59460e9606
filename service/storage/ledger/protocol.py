"""The seam between the operations and whatever database keeps the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

Value = str | int | float | bytes | None
Row = Mapping[str, Value]
T = TypeVar("T")


class Partner(Protocol):
    """What stores elsewhere that which the rows speak of."""

    def settle(self) -> None:
        """Make durable what was stored since the last time.

        Raises:
            StorageFullError, StorageFailedError: nobody knows what of it is durable.
        """
        ...

    def abandon(self) -> None:
        """Take back what was not settled; harmless when there is nothing."""
        ...


class Transaction(Protocol):
    """One consistent view; inside `Ledger.write` also one unit of change."""

    def rows(self, query: str, **parameters: Value) -> list[Row]:
        """Run a query and return its rows, each by column name."""
        ...

    def row(self, query: str, **parameters: Value) -> Row | None:
        """Run a query and return its first row."""
        ...

    def change(self, query: str, **parameters: Value) -> int:
        """Run a change and return how many rows it touched."""
        ...

    def join(self, partner: Partner) -> None:
        """Let what a partner stores belong to this unit of change.

        It is settled once before the commit, and abandoned where there is none. When it cannot be
        settled, only the work that joined it is refused. Inside `Ledger.write` only.
        """
        ...


class Ledger(Protocol):
    """Runs work against the ledger.

    Work is a plain function of a transaction: it may run on any thread, and again when its changes
    were undone; it must not block on anything else, and must not keep the transaction.
    """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work and return its result once what it changed is durable.

        An exception from `work` undoes its changes alone and is raised here.

        Raises:
            StorageFullError: no space; nothing changed.
            StorageFailedError: the ledger could not be written; nothing was acknowledged, and
                nothing will be until a restart.
        """
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on a consistent view of what is durable."""
        ...

    @property
    def failure(self) -> str | None:
        """Why no write is taken any more; None while all is well."""
        ...

    def close(self) -> None:
        """Finish the writes that were taken and let go of the file."""
        ...
