"""Problem objects (RFC 9457) and the one table from their codes to this package's errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bnrecal_client.errors import (
    AccessError,
    BatchError,
    BnrecalError,
    ConflictError,
    InputError,
    LimitError,
    ModelError,
    NotFoundError,
    OptionError,
    RecalibrationCancelled,
    RecalibrationFailed,
    ServerError,
    ServerUnreachable,
)

__all__ = ["CLASSES", "Problem", "error_class", "error_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong, as the server (or bn_ops in-process) says it.

    Attributes:
        code: stable slug.
        detail: the sentence for a person.
        status: the HTTP status, None where there was no HTTP.
        retryable: whether the server says that the same request may succeed later; None: unsaid.
        instance: the server's name for this occurrence, to look up in its log.
        members: further structured members ("batch", "input", "layer", "missing", …).
    """

    code: str
    detail: str
    status: int | None = None
    retryable: bool | None = None
    instance: str | None = None
    members: Mapping[str, object] = field(default_factory=dict)


CLASSES: Mapping[str, type[BnrecalError]] = MappingProxyType(
    {
        "input-invalid": InputError,
        "option-invalid": OptionError,
        "layer-pattern-unmatched": OptionError,
        "request-invalid": InputError,
        "media-type-unsupported": InputError,
        "digest-mismatch": InputError,
        "body-incomplete": InputError,
        "body-slow": InputError,
        "stream-empty": InputError,
        "batch-invalid": BatchError,
        "batch-malformed": BatchError,
        "batch-input": BatchError,
        "batch-dtype": BatchError,
        "batch-shape": BatchError,
        "batch-not-finite": BatchError,
        "batch-unpacked-too-large": BatchError,
        "image-invalid": BatchError,
        "preprocess-missing": OptionError,
        "model-error": ModelError,
        "model-invalid": ModelError,
        "external-data": ModelError,
        "model-unsupported": ModelError,
        "model-unsafe": ModelError,
        "model-without-batchnorm": ModelError,
        "model-already-folded": ModelError,
        "layer-not-finite": ModelError,
        "export-failed": ModelError,
        "batch-conflict": ConflictError,
        "batches-missing": ConflictError,
        "batches-surplus": ConflictError,
        "idempotency-key-reused": ConflictError,
        "model-in-use": ConflictError,
        "recalibration-not-finished": ConflictError,
        "recalibration-not-open": ConflictError,
        "transition-refused": ConflictError,
        "recalibration-failed": RecalibrationFailed,
        "resource-limit": RecalibrationFailed,
        "spill-limit": RecalibrationFailed,
        "engine-failed": RecalibrationFailed,
        "parity-failed": RecalibrationFailed,
        "worker-died": RecalibrationFailed,
        "worker-deadline": RecalibrationFailed,
        "cancelled": RecalibrationCancelled,
        "not-found": NotFoundError,
        "unauthenticated": AccessError,
        "host-refused": AccessError,
        "too-large": LimitError,
        "quota-exceeded": LimitError,
        "storage-full": LimitError,
        "storage-failed": ServerError,
        "crowded": ServerUnreachable,
        "shutting-down": ServerUnreachable,
    }
)
"""Every code that the server and bn_ops are known to use."""

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
    """Choose the class by code; for a code from a newer server by status."""
    if problem.code in CLASSES:
        return CLASSES[problem.code]
    if problem.status is None:
        return RecalibrationFailed
    known = _STATUSES.get(problem.status)
    return known or (ServerError if problem.status >= _SERVER_FAULT else InputError)


def error_of(problem: Problem, *, recalibration: str | None = None) -> BnrecalError:
    """Build the typed error for a problem."""
    chosen = error_class(problem)
    if issubclass(chosen, BatchError):
        batch, name = problem.members.get("batch"), problem.members.get("input")
        return chosen(
            problem.detail,
            problem=problem,
            recalibration=recalibration,
            batch=batch if isinstance(batch, int) else None,
            input_name=name if isinstance(name, str) else None,
        )
    return chosen(problem.detail, problem=problem, recalibration=recalibration)
