"""The exit code and the message of each error: the one table of the command line."""

from __future__ import annotations

import errno
from enum import IntEnum

from bnrecal_client.errors import (
    AccessError,
    BnrecalError,
    ConflictError,
    InputError,
    Interrupted,
    LimitError,
    ModelError,
    OptionError,
    RecalibrationCancelled,
    RecalibrationFailed,
    ServerUnreachable,
    TimedOut,
    VerdictError,
)

__all__ = ["Exit", "describe", "exit_of"]


class Exit(IntEnum):
    """Exit codes; stable, listed in docs/cli.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INPUT = 3
    MODEL = 4
    UNREACHABLE = 5
    FAILED = 6
    STOPPED = 7
    DO_NOT_DEPLOY = 8


# The first matching row counts, so a subclass precedes its base class.
_TABLE: tuple[tuple[type[BaseException], Exit], ...] = (
    (RecalibrationCancelled, Exit.STOPPED),
    (OptionError, Exit.USAGE),
    (AccessError, Exit.USAGE),
    (InputError, Exit.INPUT),
    (ConflictError, Exit.INPUT),
    (LimitError, Exit.INPUT),
    (ModelError, Exit.MODEL),
    (ServerUnreachable, Exit.UNREACHABLE),
    (VerdictError, Exit.DO_NOT_DEPLOY),
    (RecalibrationFailed, Exit.FAILED),
    (TimedOut, Exit.FAILED),
    (KeyboardInterrupt, Exit.STOPPED),
    (OSError, Exit.INPUT),
)


_ADVICE = {
    errno.ENOSPC: "; free some space, or write to another disk (-o)",
    errno.EROFS: "; write to another folder (-o)",
    errno.EACCES: "; change the permissions, or name another file",
}


def exit_of(error: BaseException) -> Exit:
    """Return the exit code; a run that failed because of its input or model has theirs."""
    if isinstance(error, RecalibrationFailed) and isinstance(error.__cause__, BnrecalError):
        return exit_of(error.__cause__)
    return next((code for kind, code in _TABLE if isinstance(error, kind)), Exit.INTERNAL)


def describe(error: BaseException) -> dict[str, object]:
    """Return an error as JSON values: code, detail and further members."""
    if isinstance(error, BnrecalError):
        return _of_the_tree(error)
    if isinstance(error, Interrupted):
        name = error.recalibration_id
        detail = (
            f"interrupted; {name} stays on the server: the same command with --resume {name} "
            f"continues, `bnrecal cancel {name} --server URL` gives it up"
        )
        return {"code": "interrupted", "detail": detail, "recalibration_id": name}
    if isinstance(error, KeyboardInterrupt):
        return {"code": "interrupted", "detail": "interrupted; nothing was written"}
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "")
        return {"code": "file-error", "detail": f"{where}{error.strerror or error}{advice}"}
    detail = f"internal error, {type(error).__name__}: {error}; --debug shows the traceback"
    return {"code": "internal", "detail": detail}


def _of_the_tree(error: BnrecalError) -> dict[str, object]:
    detail, name = error.message, error.recalibration_id
    if name is not None and isinstance(error, ServerUnreachable):
        detail += f"; --resume {name} continues once it is back"
    if isinstance(error, AccessError) and error.code == "unauthenticated":
        detail += " (BNRECAL_TOKEN, or --token TOKEN)"
    if isinstance(error, TimedOut):
        detail += f" (`bnrecal status {name}`, `bnrecal fetch {name}`)"
    found: dict[str, object] = {"code": error.code, "detail": detail}
    if error.problem is not None:
        found.update(error.problem.members)
    if name is not None:
        found["recalibration_id"] = name
    return found
