"""The operating system's errors as this package's."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from service.errors import StorageFailedError, StorageFullError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the operating system's errors into this package's, once."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError("no space is left for blobs; nothing was stored") from error
        raise StorageFailedError(f"a blob could not be stored ({name_of(error)})") from error


def name_of(error: OSError) -> str:
    """Return the name of an errno."""
    return errno.errorcode.get(error.errno or 0, "unknown error")
