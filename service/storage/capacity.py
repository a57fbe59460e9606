"""Disk full: every rule about it, in one place.

=====================  ===========================================  ================================
What is checked        Where                                        Effect
=====================  ===========================================  ================================
Total limit            `check_total_limit`, before a model or       507 `storage-full`; the upload
                       batch gets its row                           leaves nothing behind
Disk reserve           `check_reserve`, before each write of an     507 `storage-full`; the ledger,
                       upload                                       runs and results keep the rest
Operating system       `translated`, around every call of the       507 where `is_disk_full`, else
                       blob store                                   503 `storage-failed`
SQLite                 `service.storage.ledger.connection`:         507 `storage-full`; the
                       `FullError` becomes `ledger_full`            transaction is rolled back
Worker                 `service.workers.child.main`: `is_disk_full` the run is deferred
                       becomes `worker_full`
Run                    `defers_run`, when a run ends with an error  queued again after
                                                                    `run_retry_seconds`; counts as
                                                                    an attempt, not as a crash
=====================  ===========================================  ================================

A full disk is temporary: nothing was acknowledged, and the same request may succeed later. A failed
write or fsync (`StorageFailedError`) is not: what is on the disk is unknown until a restart.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from service.errors import CapacityError, StorageFailedError, StorageFullError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# For the server, a file beyond the maximum size of the file system is a full disk, too. For a
# worker it is not: its own limit on file sizes (RLIMIT_FSIZE) gives the same error.
_SERVER_FULL = _DISK_FULL | {errno.EFBIG}


def check_total_limit(stored_bytes: int, more_bytes: int, limit_bytes: int) -> None:
    """Check that an upload stays within the server's total limit.

    Raises:
        StorageFullError: the limit would be exceeded.
    """
    if stored_bytes + more_bytes > limit_bytes:
        raise StorageFullError(
            f"the server stores at most {limit_bytes} bytes; delete data that is no longer needed"
        )


def check_reserve(free_bytes: int, reserve_bytes: int) -> None:
    """Check that the disk's reserve is free.

    Raises:
        StorageFullError: less than the reserve is free.
    """
    if free_bytes < reserve_bytes:
        raise StorageFullError(
            f"less than {reserve_bytes} bytes are free on the server's disk; nothing was stored"
        )


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error of the operating system means that the disk or quota is full."""
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def ledger_full() -> StorageFullError:
    """Return the error for a transaction that found no space."""
    return StorageFullError("the disk of the ledger is full; nothing was stored")


def worker_full() -> StorageFullError:
    """Return the error for a worker that found no space for its files."""
    return StorageFullError("no space is left for the worker's files")


def defers_run(error: BaseException) -> bool:
    """Return whether a run that ended with this error is queued again after a pause."""
    return isinstance(error, CapacityError)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate errors of the operating system to those of this package.

    Raises:
        StorageFullError: the disk or quota is full.
        StorageFailedError: any other OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _SERVER_FULL:
            raise StorageFullError("no space is left for blobs; nothing was stored") from error
        raise StorageFailedError(f"a blob could not be stored ({errno_name(error)})") from error


def errno_name(error: OSError) -> str:
    """Return the symbolic name of an error number, such as `EIO`."""
    return errno.errorcode.get(error.errno or 0, "unknown error")
