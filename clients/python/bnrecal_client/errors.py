"""The error tree of this package, and the table from a server's error codes to its classes.

::

    BnrecalError
    ├── InputError                   the data: correct them and run again
    │   ├── BatchError               one batch; names batch and input where known
    │   ├── ImportFailed             objects of an import have no batch; names them
    │   ├── OptionError              an option is invalid
    │   └── NotFoundError            the server has no such model or recalibration
    ├── ModelError                   the model: not ONNX, without BatchNorm, not exportable
    ├── ConflictError                the request contradicts what the server stores
    ├── AccessError                  a token is missing, wrong, or lacks the permission
    ├── LimitError                   a limit of the server: too large, too many
    ├── ServerError                  the server failed, and retrying did not help
    │   └── UnexpectedResponseError  a response that this version cannot read
    ├── ServerUnreachable            no response within the time that retries may take
    ├── TimedOut                     waiting has ended; the recalibration continues
    ├── VerdictError                 the model should not be deployed; holds the result
    └── RecalibrationFailed          the run ended without a result; see `__cause__`
        └── RecalibrationCancelled   the run was cancelled

    KeyboardInterrupt
    └── Interrupted                  Ctrl-C; the recalibration stays on the server, resumable

An error that a server reports has its problem object as `problem`; others have None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from bnrecal_client.models import ImportedObject
    from bnrecal_client.result import Result

__all__ = [
    "AccessError",
    "BatchError",
    "BnrecalError",
    "ConflictError",
    "ImportFailed",
    "InputError",
    "Interrupted",
    "LimitError",
    "ModelError",
    "NotFoundError",
    "OptionError",
    "Problem",
    "RecalibrationCancelled",
    "RecalibrationFailed",
    "ServerError",
    "ServerUnreachable",
    "TimedOut",
    "UnexpectedResponseError",
    "VerdictError",
    "error_class",
    "error_of",
    "with_recalibration",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem object (RFC 9457), as the server or `bn_ops` reports it.

    Attributes:
        code: stable slug.
        detail: what happened, as a sentence.
        status: the HTTP status, None where no HTTP was involved.
        retryable: whether the same request may succeed later; None if not stated.
        instance: the server's name for this occurrence, to be found in its log.
        members: further structured members ("batch", "input", "layer", "missing", …).
    """

    code: str
    detail: str
    status: int | None = None
    retryable: bool | None = None
    instance: str | None = None
    members: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def read(cls, document: Mapping[str, Any], *, status: int | None = None) -> Problem:
        """Return the problem in a JSON object, which may come from a newer server.

        Args:
            document: the JSON object.
            status: the response's HTTP status, used where the object has none.
        """
        found, retryable = document.get("status"), document.get("retryable")
        return cls(
            code=str(document.get("code") or "unknown"),
            detail=str(document.get("detail") or document.get("title") or "no detail was given"),
            status=found if isinstance(found, int) else status,
            retryable=retryable if isinstance(retryable, bool) else None,
            instance=None if document.get("instance") is None else str(document["instance"]),
            members={key: value for key, value in document.items() if key not in _MEMBERS},
        )


_MEMBERS = {"type", "title", "status", "detail", "code", "error", "instance", "retryable"}


class BnrecalError(Exception):
    """Root of all errors that this package raises on purpose.

    Attributes:
        code: stable slug: the server's where it reported the error, else the class's own.
        message: what happened, where, the value found, and what to do.
        problem: the server's problem object; None for an error found on this side.
        recalibration_id: the recalibration in progress, None where there was none.
    """

    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        problem: Problem | None = None,
        recalibration_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or (problem.code if problem else self.default_code)
        self.problem = problem
        self.recalibration_id = recalibration_id


class InputError(BnrecalError):
    """The data are invalid."""

    default_code = "input-invalid"


class BatchError(InputError):
    """One batch is invalid.

    Attributes:
        batch: index of the batch in the stream, from 0; None while unknown.
        sample: index of the sample in the stream, from 0; None while unknown.
        input: name of the input; None when the batch as a whole is invalid.
    """

    default_code = "batch-invalid"

    def __init__(
        self,
        message: str,
        *,
        batch: int | None = None,
        sample: int | None = None,
        input_name: str | None = None,
        code: str | None = None,
        problem: Problem | None = None,
        recalibration_id: str | None = None,
    ) -> None:
        super().__init__(message, code=code, problem=problem, recalibration_id=recalibration_id)
        self.batch = batch
        self.sample = sample
        self.input = input_name


class OptionError(InputError):
    """An option is invalid."""

    default_code = "option-invalid"


class ImportFailed(InputError):  # noqa: N818 - reads as what happened, like TimeoutExpired
    """Objects of an import have no batch; `__cause__` is the error of the first.

    Attributes:
        objects: the objects that failed, each with its error.
    """

    default_code = "import-failed"

    def __init__(
        self,
        message: str,
        *,
        objects: tuple[ImportedObject, ...] = (),
        recalibration_id: str | None = None,
    ) -> None:
        super().__init__(message, recalibration_id=recalibration_id)
        self.objects = objects


class NotFoundError(InputError):
    """The server has no such model or recalibration."""

    default_code = "not-found"


class ModelError(BnrecalError):
    """The model is invalid, or cannot be recalibrated."""

    default_code = "model-error"


class ConflictError(BnrecalError):
    """The request contradicts what the server stores."""

    default_code = "conflict"


class AccessError(BnrecalError):
    """A token is missing, wrong, or lacks the permission."""

    default_code = "unauthenticated"


class LimitError(BnrecalError):
    """A limit of the server was reached."""

    default_code = "limit"


class ServerError(BnrecalError):
    """The server failed, and retrying did not help."""

    default_code = "internal"


class UnexpectedResponseError(ServerError):
    """A response that this client cannot read: from another program, or another version."""

    default_code = "unexpected-response"


class ServerUnreachable(BnrecalError):  # noqa: N818 - reads as what happened, like TimeoutExpired
    """No response arrived within the time that retries may take."""

    default_code = "server-unreachable"


class TimedOut(BnrecalError):  # noqa: N818 - see above
    """Waiting has ended; the recalibration itself continues."""

    default_code = "timed-out"


class VerdictError(BnrecalError):
    """The verdict is `do-not-deploy`, and the caller passed `on_verdict="raise"`.

    Attributes:
        result: the complete result; its `verdict` has the reasons.
    """

    default_code = "do-not-deploy"

    def __init__(
        self, message: str, *, result: Result | None = None, recalibration_id: str | None = None
    ) -> None:
        super().__init__(message, recalibration_id=recalibration_id)
        self.result = result


class RecalibrationFailed(BnrecalError):  # noqa: N818 - see above
    """The run ended without a result; `__cause__`, where set, is the typed reason."""

    default_code = "recalibration-failed"


class RecalibrationCancelled(RecalibrationFailed):
    """The run was cancelled."""

    default_code = "cancelled"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a recalibration, which stays on the server and can be resumed.

    Attributes:
        message: what happened and how to continue.
        recalibration_id: the recalibration, for `resume=` or `Client.job`.
    """

    def __init__(self, message: str, *, recalibration_id: str) -> None:
        super().__init__(message)
        self.message = message
        self.recalibration_id = recalibration_id


CODES: Mapping[str, type[BnrecalError]] = MappingProxyType(
    {
        "request-error": InputError,
        "request-malformed": InputError,
        "header-too-large": InputError,
        "header-timeout": InputError,
        "request-invalid": InputError,
        "not-found": NotFoundError,
        "method-not-allowed": InputError,
        "precondition-failed": InputError,
        "media-type-unsupported": InputError,
        "too-large": LimitError,
        "quota-exceeded": LimitError,
        "body-timeout": InputError,
        "body-incomplete": InputError,
        "digest-mismatch": InputError,
        "range-unsatisfiable": InputError,
        "unauthenticated": AccessError,
        "forbidden": AccessError,
        "host-refused": AccessError,
        "batch-malformed": BatchError,
        "batch-unpacked-too-large": BatchError,
        "preprocess-missing": OptionError,
        "state-error": ConflictError,
        "transition-refused": ConflictError,
        "recalibration-not-open": ConflictError,
        "recalibration-not-finished": ConflictError,
        "recalibration-failed": RecalibrationFailed,
        "batch-conflict": ConflictError,
        "batches-missing": ConflictError,
        "batches-unexpected": ConflictError,
        "idempotency-key-reused": ConflictError,
        "token-exists": ConflictError,
        "model-in-use": ConflictError,
        "capacity-error": ServerUnreachable,
        "storage-full": LimitError,
        "storage-failed": ServerError,
        "ledger-unavailable": ServerUnreachable,
        "overloaded": ServerUnreachable,
        "shutting-down": ServerUnreachable,
        "service-error": ServerError,
        "internal": ServerError,
        "start-refused": ServerError,
        "worker-error": RecalibrationFailed,
        "worker-refused": RecalibrationFailed,
        "worker-died": RecalibrationFailed,
        "worker-deadline": RecalibrationFailed,
        "error": InputError,
        "input-invalid": InputError,
        "option-invalid": OptionError,
        "layer-pattern-unmatched": OptionError,
        "stream-empty": InputError,
        "input-mismatch": InputError,
        "shard-invalid": InputError,
        "shard-mismatch": InputError,
        "batch-invalid": BatchError,
        "batch-input": BatchError,
        "batch-dtype": BatchError,
        "batch-shape": BatchError,
        "batch-not-finite": BatchError,
        "image-invalid": BatchError,
        "model-error": ModelError,
        "model-invalid": ModelError,
        "external-data": ModelError,
        "model-unsupported": ModelError,
        "model-unsafe": ModelError,
        "model-without-batchnorm": ModelError,
        "model-already-folded": ModelError,
        "layer-not-finite": ModelError,
        "target-unsupported": ModelError,
        "export-failed": ModelError,
        "resource-limit": RecalibrationFailed,
        "spill-limit": RecalibrationFailed,
        "engine-failed": RecalibrationFailed,
        "cancelled": RecalibrationCancelled,
        "parity-failed": RecalibrationFailed,
    }
)
"""Every code of the server and of bn_ops; a test compares it with theirs."""
_STATUSES: Mapping[int, type[BnrecalError]] = MappingProxyType(
    {
        401: AccessError,
        403: AccessError,
        404: NotFoundError,
        409: ConflictError,
        413: LimitError,
        429: LimitError,
        507: LimitError,
    }
)
_SERVER_FAULT = 500


def error_class(problem: Problem) -> type[BnrecalError]:
    """Return the class for a problem's code; for a code of a newer server, that of its status."""
    if problem.code in CODES:
        return CODES[problem.code]
    if problem.status is None:
        return RecalibrationFailed
    fallback = ServerError if problem.status >= _SERVER_FAULT else InputError
    return _STATUSES.get(problem.status, fallback)


def error_of(problem: Problem, *, recalibration_id: str | None = None) -> BnrecalError:
    """Return the typed error for a problem."""
    chosen = error_class(problem)
    if issubclass(chosen, BatchError):
        batch, name = problem.members.get("batch"), problem.members.get("input")
        return chosen(
            problem.detail,
            problem=problem,
            recalibration_id=recalibration_id,
            batch=batch if isinstance(batch, int) else None,
            input_name=name if isinstance(name, str) else None,
        )
    return chosen(problem.detail, problem=problem, recalibration_id=recalibration_id)


def with_recalibration(error: BaseException, recalibration_id: str) -> BaseException:
    """Return the error to raise instead, which names the recalibration that can be resumed."""
    if isinstance(error, BnrecalError):
        error.recalibration_id = error.recalibration_id or recalibration_id
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(
            f"interrupted; {recalibration_id} stays on the server: continue with "
            f'resume="{recalibration_id}", or cancel it',
            recalibration_id=recalibration_id,
        )
    name = recalibration_id
    error.add_note(f'{name} stays on the server; resume="{name}" continues it')
    return error
