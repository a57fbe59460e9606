"""Recalibrations on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from service.repositories.lifecycle import State
from service.repositories.records import Recalibration

# Far beyond any real model; keeps a hostile list from costing quadratic time against the layers.
_MOST_PATTERNS = 1000
# Loading the runtime alone takes about half of it.
LEAST_MEMORY_BYTES = 512 << 20
# A glob becomes a regular expression, in time that grows with the square of its wildcards.
_LONGEST_PATTERN = 512
_MOST_WILDCARDS = 64


def _cheap(pattern: str) -> str:
    if sum(map(pattern.count, "*?[")) > _MOST_WILDCARDS:
        raise ValueError(f"a pattern has at most {_MOST_WILDCARDS} wildcards")
    return pattern


_Pattern = Annotated[str, Field(max_length=_LONGEST_PATTERN), AfterValidator(_cheap)]


class RecalibrationIn(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "method": "exact",
                    "estimator": {"name": "replace"},
                    "layers": ["features.*", "!features.0.bn"],
                }
            ]
        },
    )

    model: str = Field(description="Id of an uploaded model.")
    method: Literal["exact", "batch"] = Field(
        default="exact", description="Layer by layer in eval mode, or one train-mode pass."
    )
    estimator: dict[str, Any] = Field(
        default_factory=lambda: {"name": "replace"},
        description="How moments become statistics: replace, prior, shrink or momentum.",
    )
    layers: Annotated[list[_Pattern], Field(max_length=_MOST_PATTERNS)] | None = Field(
        default=None, description='Globs of layers to include; "!glob" leaves out; null means all.'
    )
    preprocess: dict[str, Any] | None = Field(
        default=None,
        description="What is done to images: orientation, colour, resize, crop, scale, mean, std, "
        "layout, dtype; null where batches are arrays.",
        examples=[
            {
                "resize": 256,
                "crop": 224,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            }
        ],
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=LEAST_MEMORY_BYTES,
        description="Most private memory of the run's worker; null for what the server allows. "
        "Asking for less lets more run at one time where the server limits the memory of all.",
    )
    keep_data: bool = Field(
        default=False, description="Whether the batches stay when the recalibration has ended."
    )

    @model_validator(mode="after")
    def _is_text(self) -> RecalibrationIn:
        """Refuse half of a surrogate pair, which JSON can spell and nothing can store."""
        try:
            self.model_dump_json()
        except ValueError as error:
            raise ValueError("a string in it is no Unicode text") from error
        return self


def _is_number(value: object) -> object:
    """Take 3 and 3.0, which JSON does not tell apart, and neither "3" nor true."""
    if isinstance(value, str | bytes | bool):
        raise ValueError("a number is wanted")  # noqa: TRY004 - pydantic answers a ValueError
    return value


class StartIn(BaseModel):
    """The length of the stream."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"batches": 15}]})

    batches: Annotated[int, BeforeValidator(_is_number)] = Field(
        ge=0, le=10_000_000, description="Number of batches sent."
    )


class OptionsOut(BaseModel):
    """The options of a run."""

    method: str
    estimator: dict[str, Any]
    layers: list[str] | None
    preprocess: dict[str, Any] | None = None
    memory_bytes: int | None = None


class BatchesOut(BaseModel):
    """What has arrived; `total` is known once the stream is sealed."""

    received: int
    samples: int
    bytes: int
    total: int | None


class ProgressOut(BaseModel):
    """How far the current or last run has come.

    `seconds_left` is what the phase will still take at the rate so far; null while that is unknown.
    """

    phase: str
    done: int
    total: int | None
    seconds_left: float | None


# Without null: the framework leaves it out of the document.
_EXAMPLE: dict[str, Any] = {
    "id": "rc_3f0c9a526a354c528a0a5a3a5ce0a001",
    "model": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "state": "failed",
    "options": {
        "method": "exact",
        "estimator": {"name": "replace"},
        "layers": ["features.*"],
        "preprocess": {"resize": 256, "crop": 224},
        "memory_bytes": 2147483648,
    },
    "keep_data": False,
    "batches": {"received": 15, "samples": 480, "bytes": 1507200, "total": 15},
    "phase": "measuring",
    "progress": {"phase": "measuring", "done": 3, "total": 9, "seconds_left": 4.2},
    "error": {
        "type": "urn:bnrecal:problem:layer-not-finite",
        "title": "NaN or Inf arises inside the model",
        "status": 422,
        "detail": "the input of layer features.4 holds NaN",
        "code": "layer-not-finite",
        "error": "the input of layer features.4 holds NaN",
        "retryable": False,
    },
    "attempts": 1,
    "created": "2026-11-21T09:30:00.000Z",
    "updated": "2026-11-21T09:31:07.250Z",
    "ended": "2026-11-21T09:31:07.250Z",
}


class RecalibrationOut(BaseModel):
    """One recalibration."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    model: str
    state: State
    options: OptionsOut
    keep_data: bool
    batches: BatchesOut
    phase: str | None
    progress: ProgressOut | None
    error: dict[str, Any] | None
    attempts: int
    created: str
    updated: str
    ended: str | None

    @staticmethod
    def of(found: Recalibration) -> RecalibrationOut:
        """Write a stored recalibration."""
        return RecalibrationOut(
            id=found.id,
            model=found.model,
            state=found.state,
            options=OptionsOut.model_validate(found.options),
            keep_data=found.keep_data,
            batches=BatchesOut(
                received=found.received,
                samples=found.samples,
                bytes=found.bytes,
                total=found.total,
            ),
            phase=found.phase,
            progress=_progress(found),
            error=found.error,
            attempts=found.attempts,
            created=found.created,
            updated=found.updated,
            ended=found.ended,
        )


def _progress(found: Recalibration) -> ProgressOut | None:
    if found.phase is None or found.progress_done is None:
        return None
    return ProgressOut(
        phase=found.phase,
        done=found.progress_done,
        total=found.progress_total,
        seconds_left=found.seconds_left if found.state is State.RUNNING else None,
    )


class RecalibrationPage(BaseModel):
    """A page of recalibrations."""

    items: list[RecalibrationOut]
    next: str | None
