"""The mapping of errors to HTTP: one table, and problem documents (RFC 9457) built from it.

No other module knows the status code of an error. Codes of bn_ops are used unchanged. Every
document has an `error` member with the same text as `detail`: clients of the Open Inference
Protocol read only that.
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
        title: short description of the kind of problem; the same for each occurrence.
        retryable: whether the same request may succeed later.
    """

    status: int
    title: str
    retryable: bool = False


TABLE: Mapping[str, Problem] = MappingProxyType(
    {
        # The request.
        "request-error": Problem(400, "Invalid request"),
        "request-malformed": Problem(400, "Malformed HTTP request"),
        "header-too-large": Problem(431, "The request header is too large"),
        "header-timeout": Problem(
            408, "The request header took too long to arrive", retryable=True
        ),
        "request-invalid": Problem(422, "A parameter or the body is invalid"),
        "not-found": Problem(404, "Not found"),
        "method-not-allowed": Problem(405, "The route does not support the method"),
        "precondition-failed": Problem(412, "If-Match names another version of the file"),
        "media-type-unsupported": Problem(415, "Unsupported content type or encoding"),
        "too-large": Problem(413, "The body exceeds its limit"),
        "quota-exceeded": Problem(413, "A quota of the recalibration or the token is exceeded"),
        "body-timeout": Problem(408, "The body took too long to arrive", retryable=True),
        "body-incomplete": Problem(400, "The connection ended before the body did", retryable=True),
        "digest-mismatch": Problem(400, "The body does not match its digest", retryable=True),
        "range-unsatisfiable": Problem(416, "The range is outside the file"),
        "unauthenticated": Problem(401, "A valid token is required"),
        "forbidden": Problem(403, "The token does not permit this"),
        "host-refused": Problem(403, "The Host header is not a loopback name"),
        "batch-malformed": Problem(422, "The batch is malformed"),
        "batch-unpacked-too-large": Problem(413, "The unpacked batch exceeds its limit"),
        "preprocess-missing": Problem(422, "The recalibration was opened without preprocess"),
        # The state.
        "state-error": Problem(409, "The state of the resource does not allow the request"),
        "transition-refused": Problem(
            409, "The state of the recalibration does not allow the request"
        ),
        "recalibration-not-open": Problem(409, "The stream is sealed"),
        "recalibration-not-finished": Problem(
            409, "The result is not available yet", retryable=True
        ),
        "recalibration-failed": Problem(409, "The recalibration has no result"),
        "batch-conflict": Problem(409, "Other content is stored under the index"),
        "batches-missing": Problem(409, "Batches are missing from the stream"),
        "batches-unexpected": Problem(409, "Batches are stored beyond the announced number"),
        "idempotency-key-reused": Problem(422, "The idempotency key was used with another request"),
        "token-exists": Problem(409, "A token of this name exists"),
        "model-in-use": Problem(409, "An active recalibration uses the model"),
        # This machine.
        "capacity-error": Problem(503, "Insufficient resources, retry later", retryable=True),
        "storage-full": Problem(507, "No space is left", retryable=True),
        "storage-failed": Problem(503, "A write failed; nothing was stored", retryable=True),
        "ledger-unavailable": Problem(
            503, "The database of the ledger cannot be reached", retryable=True
        ),
        "overloaded": Problem(503, "Too many concurrent requests", retryable=True),
        "shutting-down": Problem(503, "The server is shutting down", retryable=True),
        "service-error": Problem(500, "Internal server error"),
        INTERNAL: Problem(500, "Internal server error"),
        "start-refused": Problem(500, "The server cannot start"),
        # The worker.
        "worker-error": Problem(500, "The worker failed", retryable=True),
        "worker-refused": Problem(422, "The worker rejected the input"),
        "worker-died": Problem(422, "The worker process crashed"),
        "worker-deadline": Problem(422, "The worker timed out"),
        # bn_ops.
        "error": Problem(422, "The input was rejected"),
        "input-invalid": Problem(422, "Invalid input"),
        "option-invalid": Problem(422, "Invalid option"),
        "layer-pattern-unmatched": Problem(422, "A layer pattern matches no layer"),
        "stream-empty": Problem(422, "The stream contains no sample"),
        "input-mismatch": Problem(422, "The data cannot be what the model was trained on"),
        "shard-invalid": Problem(422, "The bytes or the call are not part of a measurement"),
        "shard-mismatch": Problem(422, "The shards are not parts of one measurement"),
        "batch-invalid": Problem(422, "Invalid batch"),
        "batch-input": Problem(422, "The batch does not contain the model's inputs"),
        "batch-dtype": Problem(422, "The element type differs from the model's input"),
        "batch-shape": Problem(422, "The shape differs from the model's input"),
        "batch-not-finite": Problem(422, "The batch contains NaN or Inf"),
        "image-invalid": Problem(422, "The image cannot be decoded or is too large"),
        "model-error": Problem(422, "Unusable model"),
        "model-invalid": Problem(422, "The file is not a valid model"),
        "external-data": Problem(422, "External data of the model is rejected or missing"),
        "model-unsupported": Problem(422, "Unsupported model"),
        "model-unsafe": Problem(422, "Loading the file could run code"),
        "model-without-batchnorm": Problem(422, "The model has no BatchNorm to recalibrate"),
        "model-already-folded": Problem(422, "The model's BatchNorm layers are already folded"),
        "layer-not-finite": Problem(422, "The model computes NaN or Inf"),
        "target-unsupported": Problem(422, "The opset or target lacks an operator of the model"),
        "export-failed": Problem(422, "The model cannot be exported"),
        "resource-limit": Problem(422, "A limit of the run was exceeded"),
        "spill-limit": Problem(422, "The intermediate tensors exceed the limits"),
        "engine-failed": Problem(422, "The runtime failed on the model"),
        "cancelled": Problem(409, "The run was cancelled"),
        "parity-failed": Problem(500, "The folded model differs from the original"),
    }
)


def code_of(error: ServiceError | BnOpsError) -> str:
    """Return the code of an error, or of its nearest ancestor that is in the table."""
    codes = [error.refusal] if isinstance(error, RefusedError) else []
    codes += [str(getattr(kind, "code", "")) for kind in type(error).__mro__]
    return next((code for code in codes if code in TABLE), INTERNAL)


def document(
    code: str, detail: str, *, instance: str | None = None, members: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a problem document; lone surrogates in text from a request are escaped."""
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
    """Escape lone surrogates, which JSON can express and UTF-8 cannot."""
    if isinstance(found, str):
        return found.encode(errors="backslashreplace").decode()
    return [_text(one) for one in found] if isinstance(found, list) else found


def from_error(error: ServiceError | BnOpsError, *, instance: str | None = None) -> dict[str, Any]:
    """Return the problem document of an error of this package or of bn_ops."""
    members = error.details() if isinstance(error, BnOpsError) else error.details
    return document(code_of(error), error.message, instance=instance, members=members)
