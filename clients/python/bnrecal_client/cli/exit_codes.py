"""What the exit code says, and how an error is told: the one table of the command line."""

from __future__ import annotations

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


# The first row that fits counts: a special class stands before the general one.
_TABLE: tuple[tuple[type[BaseException], Exit], ...] = (
    (RecalibrationCancelled, Exit.STOPPED),
    (OptionError, Exit.USAGE),
    (AccessError, Exit.USAGE),
    (InputError, Exit.INPUT),
    (ConflictError, Exit.INPUT),
    (LimitError, Exit.INPUT),
    (ModelError, Exit.MODEL),
    (ServerUnreachable, Exit.UNREACHABLE),
    (RecalibrationFailed, Exit.FAILED),
    (TimedOut, Exit.FAILED),
    (KeyboardInterrupt, Exit.STOPPED),
    (OSError, Exit.INPUT),
)


def exit_of(error: BaseException) -> Exit:
    """Return the exit code; a run that failed because of its input or model counts as those do."""
    if isinstance(error, RecalibrationFailed) and isinstance(error.__cause__, BnrecalError):
        return exit_of(error.__cause__)
    return next((code for kind, code in _TABLE if isinstance(error, kind)), Exit.INTERNAL)


def describe(error: BaseException) -> dict[str, object]:
    """Tell an error as JSON: code, detail, and what is known besides."""
    if isinstance(error, BnrecalError):
        return _known(error)
    if isinstance(error, Interrupted):
        told = f"interrupted; {error.recalibration_id} stays on the server: the same command with "
        detail = told + f"--resume {error.recalibration_id} goes on, `bnrecal cancel` gives it up"
        return {"code": "interrupted", "detail": detail, "recalibration_id": error.recalibration_id}
    if isinstance(error, KeyboardInterrupt):
        return {"code": "interrupted", "detail": "interrupted; nothing was written"}
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return {"code": "file-error", "detail": f"{where}{error.strerror or error}"}
    detail = f"internal error, {type(error).__name__}: {error}; --debug shows where it arose"
    return {"code": "internal", "detail": detail}


def _known(error: BnrecalError) -> dict[str, object]:
    detail = error.message
    if error.recalibration_id is not None and isinstance(error, ServerUnreachable):
        detail += f"; --resume {error.recalibration_id} goes on when it is back"
    if isinstance(error, TimedOut):
        name = error.recalibration_id
        detail += f" (`bnrecal status {name}`, `bnrecal fetch {name}`)"
    told: dict[str, object] = {"code": error.code, "detail": detail}
    if error.problem is not None:
        told.update(error.problem.members)
    if error.recalibration_id is not None:
        told["recalibration_id"] = error.recalibration_id
    return told
