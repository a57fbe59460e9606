"""The error tree of the server. What each error means over HTTP stands in `service.problems` alone.

::

    ServiceError
    ├── RequestError                 the request is at fault
    │   ├── NotFoundError            no such thing
    │   ├── RequestInvalidError      a parameter or a JSON body is not what the route takes
    │   ├── MediaTypeError           a content type or encoding that the route does not take
    │   ├── TooLargeError            a body over its limit
    │   ├── QuotaError               a recalibration or a token over its quota
    │   ├── BodyTimeoutError            the body came too slowly
    │   ├── BodyIncompleteError      the connection ended before the body did
    │   ├── DigestMismatchError      the body is not what its Content-Digest says
    │   ├── BatchMalformedError      the body is no file of its format
    │   │   └── BatchUnpackedTooLargeError  an archive that unpacks to too much
    │   ├── PreprocessMissingError   images for a recalibration that was opened without preprocess
    │   ├── UnauthenticatedError     no token, or one that is not known
    │   ├── ForbiddenError           the token may not do this
    │   └── HostError                a Host header that is not this machine's loopback name
    ├── StateError                   the request is right, the state of the thing is not
    │   ├── TransitionError          an event that the lifecycle does not know in this state
    │   ├── RecalibrationNotOpenError, RecalibrationNotFinishedError, RecalibrationFailedError
    │   ├── BatchConflictError, BatchesMissingError, BatchesUnexpectedError
    │   ├── IdempotencyKeyReusedError
    │   ├── TokenExistsError
    │   └── ModelInUseError
    ├── CapacityError                this machine cannot do it now
    │   ├── StorageFullError         no space left, or the total quota is reached
    │   ├── StorageFailedError       a write or fsync failed; nothing was acknowledged
    │   ├── OverloadedError             as many requests are under way as may be
    │   └── ShuttingDownError        the server is going down
    ├── WorkerError                  the worker process
    │   ├── RefusedError             it refused the work, with a code of bn_ops
    │   ├── WorkerDiedError          it ended without an answer
    │   └── WorkerDeadlineError      it ran past its deadline and was killed
    └── StartError                   the server refuses to start
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Detail = str | int | bool | list[int] | list[str] | None


class ServiceError(Exception):
    """Root of every error that this package raises on purpose.

    Attributes:
        code: stable slug; the key into the table of problems.
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
    """There is no such thing."""

    code = "not-found"


class RequestInvalidError(RequestError):
    """A parameter or a JSON body is not what the route takes."""

    code = "request-invalid"


class MediaTypeError(RequestError):
    """The content type or encoding is none that the route takes."""

    code = "media-type-unsupported"


class TooLargeError(RequestError):
    """The body is over its limit."""

    code = "too-large"


class QuotaError(RequestError):
    """A recalibration or a token is over its quota."""

    code = "quota-exceeded"


class BodyTimeoutError(RequestError):
    """The body came too slowly."""

    code = "body-timeout"


class BodyIncompleteError(RequestError):
    """The connection ended before the body did."""

    code = "body-incomplete"


class DigestMismatchError(RequestError):
    """The body is not what its Content-Digest says."""

    code = "digest-mismatch"


class BatchMalformedError(RequestError):
    """The body is no file of the format that its content type names."""

    code = "batch-malformed"


class BatchUnpackedTooLargeError(BatchMalformedError):
    """An archive or image that unpacks to more than is allowed."""

    code = "batch-unpacked-too-large"


class PreprocessMissingError(RequestError):
    """Images for a recalibration that does not say what to do with them."""

    code = "preprocess-missing"


class UnauthenticatedError(RequestError):
    """No token, or one that is not known."""

    code = "unauthenticated"


class ForbiddenError(RequestError):
    """The token is known but may not do this."""

    code = "forbidden"


class HostError(RequestError):
    """The Host header is not a loopback name although no token protects the server."""

    code = "host-refused"


class StateError(ServiceError):
    """The request is right, the state of the thing is not."""

    code = "state-error"


class TransitionError(StateError):
    """The lifecycle does not know this event in this state; nothing has changed."""

    code = "transition-refused"


class RecalibrationNotOpenError(StateError):
    """The stream is sealed: no batch is taken any more."""

    code = "recalibration-not-open"


class RecalibrationNotFinishedError(StateError):
    """There is no result yet."""

    code = "recalibration-not-finished"


class RecalibrationFailedError(StateError):
    """There will be no result."""

    code = "recalibration-failed"


class BatchConflictError(StateError):
    """Another content is stored under this index."""

    code = "batch-conflict"


class BatchesMissingError(StateError):
    """The stream has gaps."""

    code = "batches-missing"


class BatchesUnexpectedError(StateError):
    """Batches are stored beyond the count that the start names."""

    code = "batches-unexpected"


class IdempotencyKeyReusedError(StateError):
    """The key was used before, with another request."""

    code = "idempotency-key-reused"


class TokenExistsError(StateError):
    """There is a token of this name already."""

    code = "token-exists"


class ModelInUseError(StateError):
    """A recalibration that has not ended uses the model."""

    code = "model-in-use"


class CapacityError(ServiceError):
    """This machine cannot do it now."""

    code = "capacity-error"


class StorageFullError(CapacityError):
    """No space is left, or the total quota is reached."""

    code = "storage-full"


class StorageFailedError(CapacityError):
    """A write or an fsync failed; nothing was acknowledged."""

    code = "storage-failed"


class OverloadedError(CapacityError):
    """As many requests are under way as may be."""

    code = "overloaded"


class ShuttingDownError(CapacityError):
    """The server is going down."""

    code = "shutting-down"


class WorkerError(ServiceError):
    """The worker process did not do the work."""

    code = "worker-error"


class RefusedError(WorkerError):
    """The worker refused the work; `refusal` is the code of bn_ops, used unchanged over HTTP."""

    code = "worker-refused"

    def __init__(self, message: str, *, refusal: str, **details: Detail) -> None:
        super().__init__(message, **details)
        self.refusal = refusal


class WorkerDiedError(WorkerError):
    """The worker ended without an answer."""

    code = "worker-died"


class WorkerDeadlineError(WorkerError):
    """The worker ran past its deadline and was killed."""

    code = "worker-deadline"


class StartError(ServiceError):
    """The server refuses to start, and says why."""

    code = "start-refused"
