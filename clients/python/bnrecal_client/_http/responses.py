"""What each response means: a value, or a typed error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bnrecal_client._http.json_fields import (
    flag,
    integer,
    items,
    maybe_integer,
    maybe_text,
    member,
    number,
    text,
)
from bnrecal_client._http.messages import Response
from bnrecal_client.errors import UnexpectedAnswerError
from bnrecal_client.models import (
    LayerInfo,
    ModelDescription,
    Progress,
    Recalibration,
    StoredBatch,
    Stream,
    TensorInfo,
)
from bnrecal_client.problems import Problem, error_of

__all__ = [
    "Page",
    "batch",
    "batches",
    "expect",
    "model",
    "models",
    "page",
    "problem",
    "recalibration",
    "report",
]

T = TypeVar("T")
_PROBLEM_MEMBERS = frozenset(
    {"type", "title", "status", "detail", "code", "error", "instance", "retryable"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list; `next` is the cursor of the page after it, None on the last."""

    items: tuple[T, ...]
    next: str | None


def expect(response: Response, *statuses: int) -> Response:
    """Return the response if its status is one of these.

    Raises:
        BnrecalError: of the class that the problem's code stands for.
        UnexpectedAnswerError: neither that status nor a problem object.
    """
    if response.status in statuses:
        return response
    raise error_of(problem(response))


def problem(response: Response) -> Problem:
    """Read a problem object.

    Raises:
        UnexpectedAnswerError: the body is none; then a proxy or another program has answered.
    """
    if not response.media_type.endswith("json"):
        raise UnexpectedAnswerError(
            f"an answer with status {response.status} and {response.media_type or 'no'} content "
            "came from something that is not a bnrecal server; check the address"
        )
    return problem_of(member(response.json(), "problem"), status=response.status)


def problem_of(obj: Mapping[str, object], *, status: int | None = None) -> Problem:
    """Read a problem object that stands in a response, or inside a recalibration."""
    said = obj.get("retryable")
    found = obj.get("status")
    return Problem(
        code=maybe_text(obj, "code") or "unknown",
        detail=maybe_text(obj, "detail") or maybe_text(obj, "title") or "no detail was given",
        status=found if isinstance(found, int) else status,
        retryable=said if isinstance(said, bool) else None,
        instance=maybe_text(obj, "instance"),
        members={key: value for key, value in obj.items() if key not in _PROBLEM_MEMBERS},
    )


def report(response: Response) -> dict[str, Any]:
    """Read the report's JSON form."""
    return dict(member(expect(response, 200).json(), "report"))


def page(response: Response) -> str:
    """Read the report as a page.

    Raises:
        UnexpectedAnswerError: it is no UTF-8.
    """
    try:
        return expect(response, 200).body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnexpectedAnswerError(f"the report's page is no text: {error}") from error


def model(response: Response) -> ModelDescription:
    """Read a model's description."""
    return _model(member(expect(response, 200, 201).json(), "model"))


def models(response: Response) -> Page[ModelDescription]:
    """Read a page of models."""
    return _page(response, _model)


def recalibration(response: Response) -> Recalibration:
    """Read a recalibration."""
    obj = member(expect(response, 200, 201, 202).json(), "recalibration")
    error = obj.get("error")
    return Recalibration(
        id=text(obj, "id"),
        model=text(obj, "model"),
        state=text(obj, "state"),
        options=member(obj.get("options"), "options"),
        batches=_stream(member(obj.get("batches"), "batches")),
        phase=maybe_text(obj, "phase"),
        progress=_progress(obj.get("progress")),
        error=None if error is None else problem_of(member(error, "error")),
        attempts=integer(obj, "attempts"),
        created=text(obj, "created"),
        updated=text(obj, "updated"),
        ended=maybe_text(obj, "ended"),
    )


def batch(response: Response) -> StoredBatch:
    """Read the acknowledgement of one batch."""
    return _batch(member(expect(response, 200, 201).json(), "batch"))


def batches(response: Response) -> Page[StoredBatch]:
    """Read a page of what has arrived."""
    return _page(response, _batch)


def _page(response: Response, read: Callable[[Mapping[str, object]], T]) -> Page[T]:
    obj = member(expect(response, 200).json(), "page")
    cursor = obj.get("next")
    return Page(
        items=tuple(read(member(item, "item")) for item in items(obj, "items")),
        next=None if cursor is None else str(cursor),
    )


def _model(obj: Mapping[str, object]) -> ModelDescription:
    return ModelDescription(
        id=text(obj, "id"),
        bytes=integer(obj, "bytes"),
        created=text(obj, "created"),
        inputs=tuple(_tensor(member(item, "input")) for item in items(obj, "inputs")),
        outputs=tuple(_tensor(member(item, "output")) for item in items(obj, "outputs")),
        layers=tuple(_layer(member(item, "layer")) for item in items(obj, "layers")),
        warnings=tuple(str(item) for item in items(obj, "warnings")),
    )


def _tensor(obj: Mapping[str, object]) -> TensorInfo:
    shape = obj.get("shape")
    sizes = None if shape is None else tuple(_size(size) for size in items(obj, "shape"))
    return TensorInfo(name=text(obj, "name"), dtype=text(obj, "dtype"), shape=sizes)


def _size(size: object) -> int | str | None:
    return size if isinstance(size, int | str) else None


def _layer(obj: Mapping[str, object]) -> LayerInfo:
    return LayerInfo(
        name=text(obj, "name"),
        channels=maybe_integer(obj, "channels"),
        eps=number(obj, "eps"),
        affine=flag(obj, "affine"),
        input_rank=maybe_integer(obj, "input_rank"),
        reason=maybe_text(obj, "reason"),
    )


def _batch(obj: Mapping[str, object]) -> StoredBatch:
    return StoredBatch(
        index=integer(obj, "index"),
        samples=integer(obj, "samples"),
        bytes=integer(obj, "bytes"),
        sha256=text(obj, "sha256"),
    )


def _stream(obj: Mapping[str, object]) -> Stream:
    return Stream(
        received=integer(obj, "received"),
        samples=integer(obj, "samples"),
        bytes=integer(obj, "bytes"),
        total=maybe_integer(obj, "total"),
    )


def _progress(value: object) -> Progress | None:
    if value is None:
        return None
    obj = member(value, "progress")
    known = obj.get("seconds_left") is not None
    return Progress(
        phase=text(obj, "phase"),
        done=integer(obj, "done"),
        total=maybe_integer(obj, "total"),
        seconds_left=number(obj, "seconds_left") if known else None,
    )
