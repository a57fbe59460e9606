"""What each error means over HTTP: the one table, and RFC 9457 documents made from it.

No other module knows a status code of an error. `bn_ops` codes are used unchanged. Every document
carries an `error` member with the same text as `detail`, because Open Inference Protocol clients
read only that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bn_ops.errors import BnOpsError
from service.errors import RefusedError, ServiceError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:bnrecal:problem:"
INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table.

    Attributes:
        status: HTTP status.
        title: the kind of problem, for a person; the same for each occurrence.
        retryable: whether the same request may succeed later without any change.
    """

    status: int
    title: str
    retryable: bool = False


TABLE: Mapping[str, Problem] = MappingProxyType(
    {
        # The request.
        "request-error": Problem(400, "The request is at fault"),
        "request-malformed": Problem(400, "This is no HTTP/1.1 request"),
        "head-too-large": Problem(431, "The request's head is too large"),
        "head-slow": Problem(408, "The request's head came too slowly", retryable=True),
        "request-invalid": Problem(422, "A parameter or a body is not what the route takes"),
        "not-found": Problem(404, "There is no such thing"),
        "method-not-allowed": Problem(405, "The route does not take this method"),
        "precondition-failed": Problem(412, "The file is not the one that If-Match names"),
        "media-type-unsupported": Problem(415, "The content type or encoding is not taken"),
        "too-large": Problem(413, "The body is over its limit"),
        "quota-exceeded": Problem(413, "A recalibration or a token is over its quota"),
        "body-slow": Problem(408, "The body came too slowly", retryable=True),
        "body-incomplete": Problem(400, "The connection ended before the body did", retryable=True),
        "digest-mismatch": Problem(400, "The body is not what its digest says", retryable=True),
        "range-unsatisfiable": Problem(416, "The range lies outside the file"),
        "unauthenticated": Problem(401, "A known token is needed"),
        "forbidden": Problem(403, "The token may not do this"),
        "host-refused": Problem(403, "The Host header is no loopback name"),
        "batch-malformed": Problem(422, "The batch is no file of its format"),
        "batch-unpacked-too-large": Problem(413, "The batch unpacks to more than is allowed"),
        "preprocess-missing": Problem(422, "The recalibration was opened without preprocess"),
        # The state.
        "state-error": Problem(409, "The state of the thing does not allow it"),
        "transition-refused": Problem(409, "The recalibration's state does not allow it"),
        "recalibration-not-open": Problem(409, "The stream is sealed"),
        "recalibration-not-finished": Problem(409, "There is no result yet", retryable=True),
        "recalibration-failed": Problem(409, "There will be no result"),
        "batch-conflict": Problem(409, "Another content is stored under this index"),
        "batches-missing": Problem(409, "The stream has gaps"),
        "batches-surplus": Problem(409, "There are batches beyond the count"),
        "idempotency-key-reused": Problem(422, "The key was used with another request"),
        "token-exists": Problem(409, "There is a token of this name"),
        "model-in-use": Problem(409, "A recalibration that has not ended uses the model"),
        # This machine.
        "capacity-error": Problem(503, "The server cannot do it now", retryable=True),
        "storage-full": Problem(507, "No space is left", retryable=True),
        "storage-failed": Problem(503, "Storage failed; nothing was acknowledged", retryable=True),
        "crowded": Problem(503, "Too many requests are under way", retryable=True),
        "shutting-down": Problem(503, "The server is going down", retryable=True),
        "service-error": Problem(500, "The server failed"),
        INTERNAL: Problem(500, "The server failed"),
        "start-refused": Problem(500, "The server refuses to start"),
        # The worker.
        "worker-error": Problem(500, "The worker failed", retryable=True),
        "worker-refused": Problem(422, "The worker refused the work"),
        "worker-died": Problem(422, "The worker process died"),
        "worker-deadline": Problem(422, "The worker ran past its deadline"),
        # bn_ops.
        "error": Problem(422, "The work was refused"),
        "input-invalid": Problem(422, "The input cannot be used"),
        "option-invalid": Problem(422, "An option has no meaning as given"),
        "layer-pattern-unmatched": Problem(422, "A layer pattern matches nothing"),
        "stream-empty": Problem(422, "The stream holds no sample"),
        "batch-invalid": Problem(422, "The batch cannot be used"),
        "batch-input": Problem(422, "The batch does not hold the model's inputs"),
        "batch-dtype": Problem(422, "The batch has another element type than the model's input"),
        "batch-shape": Problem(422, "The batch has another shape than the model's input"),
        "batch-not-finite": Problem(422, "The batch holds NaN or Inf"),
        "image-invalid": Problem(422, "The image cannot be decoded or is too large"),
        "model-error": Problem(422, "The model cannot be used"),
        "model-invalid": Problem(422, "The file is not a valid model"),
        "external-data": Problem(422, "External data of the model is rejected or missing"),
        "model-unsupported": Problem(422, "The model is of a kind that is not taken"),
        "model-unsafe": Problem(422, "The file could run code when it is loaded"),
        "model-without-batchnorm": Problem(422, "The model has no BatchNorm to recalibrate"),
        "model-already-folded": Problem(422, "The model's BatchNorm is folded away already"),
        "layer-not-finite": Problem(422, "NaN or Inf arises inside the model"),
        "export-failed": Problem(422, "The model cannot be exported"),
        "resource-limit": Problem(422, "A limit of the run was reached"),
        "spill-limit": Problem(422, "The intermediate tensors do not fit the limits"),
        "engine-failed": Problem(422, "The runtime failed on the model"),
        "cancelled": Problem(409, "The run was cancelled"),
        "parity-failed": Problem(500, "The folded model does not agree with the model"),
    }
)


def code_of(error: ServiceError | BnOpsError) -> str:
    """Return the code under which an error stands in the table, or its nearest ancestor's."""
    codes = [error.refusal] if isinstance(error, RefusedError) else []
    codes += [str(getattr(kind, "code", "")) for kind in type(error).__mro__]
    return next((code for code in codes if code in TABLE), INTERNAL)


def document(
    code: str, detail: str, *, instance: str | None = None, members: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write a problem document; what it repeats of a request is made text that can be sent."""
    problem = TABLE[code]
    detail = _text(detail)
    found: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": code,
        "error": detail,
        "retryable": problem.retryable,
    }
    if instance is not None:
        found["instance"] = instance
    reserved = found.keys() | {"instance"}
    extra = {key: _text(value) for key, value in (members or {}).items() if key not in reserved}
    return found | extra


def _text(found: Any) -> Any:
    """Write half of a surrogate pair, which a client's JSON can spell, as an escape."""
    if isinstance(found, str):
        return found.encode(errors="backslashreplace").decode()
    return [_text(one) for one in found] if isinstance(found, list) else found


def from_error(error: ServiceError | BnOpsError, *, instance: str | None = None) -> dict[str, Any]:
    """Write the problem document of an error raised on purpose."""
    members = error.details() if isinstance(error, BnOpsError) else error.details
    return document(code_of(error), error.message, instance=instance, members=members)
