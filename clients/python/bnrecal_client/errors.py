"""The one error tree of this package.

::

    BnrecalError
    ├── InputError                 the data: mend it and run again
    │   ├── BatchError             one batch is at fault; names batch and input where known
    │   ├── OptionError            an option has no meaning as given
    │   └── NotFoundError          the server has no such model or recalibration
    ├── ModelError                 the model: not ONNX, without BatchNorm, not exportable
    ├── ConflictError              what was asked does not fit what the server holds already
    ├── AccessError                a token is missing, wrong, or not allowed to do this
    ├── LimitError                 a limit of the server: too large, too many
    ├── ServerError                the server failed, and a second try did not help
    │   └── UnexpectedAnswerError  an answer that this version cannot read
    ├── ServerUnreachable          no answer within the time that retries may take
    ├── TimedOut                   the recalibration goes on; waiting for it has ended
    └── RecalibrationFailed        the run ended without a result; `__cause__` says who must act
        └── RecalibrationCancelled somebody cancelled it

    KeyboardInterrupt
    └── Interrupted                Ctrl-C; the recalibration stays on the server and can go on

Errors that a server reports carry its problem object as `problem`; the table from its code to a
class stands in `problems.py`. Errors found on this side have `problem` None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from bnrecal_client.problems import Problem

__all__ = [
    "AccessError",
    "BatchError",
    "BnrecalError",
    "ConflictError",
    "InputError",
    "Interrupted",
    "LimitError",
    "ModelError",
    "NotFoundError",
    "OptionError",
    "RecalibrationCancelled",
    "RecalibrationFailed",
    "ServerError",
    "ServerUnreachable",
    "TimedOut",
    "UnexpectedAnswerError",
]


class BnrecalError(Exception):
    """Root of every error that this package raises on purpose.

    Attributes:
        code: stable slug: the server's where it reported the error, else the class's own.
        message: what happened, where, what was found, what to do.
        problem: what the server answered; None for an error found on this side.
        recalibration: id of the recalibration that was under way, None where there was none.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        problem: Problem | None = None,
        recalibration: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or (problem.code if problem else self.default_code)
        self.problem = problem
        self.recalibration = recalibration


class InputError(BnrecalError):
    """The data are at fault."""

    default_code = "input-invalid"


class BatchError(InputError):
    """One batch is at fault.

    Attributes:
        batch: index of the batch in the stream, from 0; None while it is not known.
        input: name of the input at fault; None when the batch as a whole is.
    """

    default_code = "batch-invalid"

    def __init__(
        self,
        message: str,
        *,
        batch: int | None = None,
        input_name: str | None = None,
        code: str | None = None,
        problem: Problem | None = None,
        recalibration: str | None = None,
    ) -> None:
        super().__init__(message, code=code, problem=problem, recalibration=recalibration)
        self.batch = batch
        self.input = input_name


class OptionError(InputError):
    """An option has no meaning as given."""

    default_code = "option-invalid"


class NotFoundError(InputError):
    """The server has no such model or recalibration."""

    default_code = "not-found"


class ModelError(BnrecalError):
    """The model is at fault, or is not one that can be recalibrated."""

    default_code = "model-error"


class ConflictError(BnrecalError):
    """What was asked does not fit what the server holds already."""

    default_code = "conflict"


class AccessError(BnrecalError):
    """A token is missing, wrong, or not allowed to do this."""

    default_code = "unauthenticated"


class LimitError(BnrecalError):
    """A limit of the server was reached."""

    default_code = "limit"


class ServerError(BnrecalError):
    """The server failed, and a second try did not help."""

    default_code = "internal"


class UnexpectedAnswerError(ServerError):
    """An answer that this client cannot read: from another program, or another version."""

    default_code = "unexpected-answer"


class ServerUnreachable(BnrecalError):  # noqa: N818 - reads as what happened, like TimeoutExpired
    """No answer came within the time that retries may take."""

    default_code = "server-unreachable"


class TimedOut(BnrecalError):  # noqa: N818 - likewise
    """Waiting has ended; the recalibration itself goes on."""

    default_code = "timed-out"


class RecalibrationFailed(BnrecalError):  # noqa: N818 - likewise
    """The run ended without a result; `__cause__`, where set, says who must act."""

    default_code = "recalibration-failed"


class RecalibrationCancelled(RecalibrationFailed):
    """The run was cancelled."""

    default_code = "cancelled"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a recalibration was under way; it stays on the server and can go on.

    Attributes:
        recalibration: its id, for `resume=` or `attach`.
    """

    def __init__(self, message: str, *, recalibration: str) -> None:
        super().__init__(message)
        self.message = message
        self.recalibration = recalibration
