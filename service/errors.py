"""The error tree of the server; `service.problems` defines what each error means over HTTP.

::

    ServiceError
    ├── RequestError                 the request is at fault
    │   ├── NotFoundError            the resource does not exist
    │   ├── RequestInvalidError      a parameter or a JSON body is invalid
    │   ├── MediaTypeError           the content type or encoding is not supported
    │   ├── TooLargeError            the body exceeds its limit
    │   ├── QuotaError               a recalibration or a token exceeds its quota
    │   ├── BodyTimeoutError         the body arrived too slowly
    │   ├── BodyIncompleteError      the connection ended before the body was complete
    │   ├── DigestMismatchError      the body does not match its Content-Digest
    │   ├── BatchMalformedError      the body is not a file of its format
    │   │   └── BatchUnpackedTooLargeError  an archive exceeds a limit when unpacked
    │   ├── PreprocessMissingError   images for a recalibration without preprocess
    │   ├── UnauthenticatedError     there is no token, or it is unknown
    │   ├── ForbiddenError           the token does not allow the request
    │   └── HostError                the Host header is not a loopback name
    ├── StateError                   the state of the resource does not allow the request
    │   ├── TransitionError          a lifecycle event that the state does not allow
    │   ├── RecalibrationNotOpenError, RecalibrationNotFinishedError, RecalibrationFailedError
    │   ├── BatchConflictError, BatchesMissingError, BatchesUnexpectedError
    │   ├── IdempotencyKeyReusedError
    │   ├── TokenExistsError
    │   └── ModelInUseError
    ├── CapacityError                insufficient resources, retry later
    │   ├── StorageFullError         the disk is full, or the total limit is reached
    │   ├── StorageFailedError       a write or fsync failed; nothing was acknowledged
    │   │   └── LedgerUnavailableError  the database of the ledger cannot be reached
    │   ├── OverloadedError          too many requests are in progress
    │   └── ShuttingDownError        the server is shutting down
    ├── WorkerError                  the worker process
    │   ├── RefusedError             it refused the task, with a code of bn_ops
    │   ├── WorkerDiedError          it ended without an answer
    │   └── WorkerDeadlineError      it exceeded its time limit and was killed
    └── StartError                   the server cannot start
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Detail = str | int | bool | list[int] | list[str] | None


class ServiceError(Exception):
    """Root of all errors that this package raises on purpose.

    Attributes:
        code: stable slug; the key in the table of problems.
        message: what happened, where, what was found, what to do.
        details: structured members for the problem document.
    """

    code: ClassVar[str] = "service-error"

    def __init__(self, message: str, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Detail] = details


class RequestError(ServiceError):
    """The request is at fault."""

    code = "request-error"


class NotFoundError(RequestError):
    """The resource does not exist."""

    code = "not-found"


class RequestInvalidError(RequestError):
    """A parameter or a JSON body is invalid."""

    code = "request-invalid"


class MediaTypeError(RequestError):
    """The route does not support the content type or encoding."""

    code = "media-type-unsupported"


class TooLargeError(RequestError):
    """The body exceeds its limit."""

    code = "too-large"


class QuotaError(RequestError):
    """A recalibration or a token exceeds its quota."""

    code = "quota-exceeded"


class BodyTimeoutError(RequestError):
    """The body arrived too slowly."""

    code = "body-timeout"


class BodyIncompleteError(RequestError):
    """The connection ended before the body was complete."""

    code = "body-incomplete"


class DigestMismatchError(RequestError):
    """The body does not match its Content-Digest."""

    code = "digest-mismatch"


class BatchMalformedError(RequestError):
    """The body is not a file of the format that its content type names."""

    code = "batch-malformed"


class BatchUnpackedTooLargeError(BatchMalformedError):
    """An archive or image exceeds a limit when unpacked."""

    code = "batch-unpacked-too-large"


class PreprocessMissingError(RequestError):
    """Images for a recalibration that was created without preprocess."""

    code = "preprocess-missing"


class UnauthenticatedError(RequestError):
    """There is no token, or it is unknown."""

    code = "unauthenticated"


class ForbiddenError(RequestError):
    """The token does not allow the request."""

    code = "forbidden"


class HostError(RequestError):
    """The Host header is not a loopback name, and the server has no token."""

    code = "host-refused"


class StateError(ServiceError):
    """The state of the resource does not allow the request."""

    code = "state-error"


class TransitionError(StateError):
    """The state does not allow the lifecycle event; nothing was changed."""

    code = "transition-refused"


class RecalibrationNotOpenError(StateError):
    """The stream is sealed and accepts no more batches."""

    code = "recalibration-not-open"


class RecalibrationNotFinishedError(StateError):
    """There is no result yet."""

    code = "recalibration-not-finished"


class RecalibrationFailedError(StateError):
    """The recalibration ended without a result."""

    code = "recalibration-failed"


class BatchConflictError(StateError):
    """Other content is stored under this index."""

    code = "batch-conflict"


class BatchesMissingError(StateError):
    """The stream has gaps."""

    code = "batches-missing"


class BatchesUnexpectedError(StateError):
    """Batches are stored beyond the announced count."""

    code = "batches-unexpected"


class IdempotencyKeyReusedError(StateError):
    """The key was used with another request."""

    code = "idempotency-key-reused"


class TokenExistsError(StateError):
    """There is a token with this name already."""

    code = "token-exists"


class ModelInUseError(StateError):
    """A recalibration that has not ended uses the model."""

    code = "model-in-use"


class CapacityError(ServiceError):
    """Insufficient resources, retry later."""

    code = "capacity-error"


class StorageFullError(CapacityError):
    """The disk is full, or the total limit is reached."""

    code = "storage-full"


class StorageFailedError(CapacityError):
    """A write or an fsync failed; nothing was acknowledged."""

    code = "storage-failed"


class LedgerUnavailableError(StorageFailedError):
    """The database of the ledger cannot be reached at the moment.

    What was being committed when the connection was lost may be durable nevertheless.
    """

    code = "ledger-unavailable"


class OverloadedError(CapacityError):
    """Too many requests are in progress."""

    code = "overloaded"


class ShuttingDownError(CapacityError):
    """The server is shutting down."""

    code = "shutting-down"


class WorkerError(ServiceError):
    """The worker process failed."""

    code = "worker-error"


class RefusedError(WorkerError):
    """The worker refused the task; `refusal` is a code of bn_ops, used unchanged over HTTP."""

    code = "worker-refused"

    def __init__(self, message: str, *, refusal: str, **details: Detail) -> None:
        super().__init__(message, **details)
        self.refusal = refusal


class WorkerDiedError(WorkerError):
    """The worker ended without an answer."""

    code = "worker-died"


class WorkerDeadlineError(WorkerError):
    """The worker exceeded its time limit and was killed."""

    code = "worker-deadline"


class StartError(ServiceError):
    """The server cannot start."""

    code = "start-refused"
