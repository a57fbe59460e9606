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

from bn_ops.core.options import MAX_SEED
from bn_ops.diagnostics.report import VerdictCode
from bn_ops.onnx_files.deployment.targets import MIN_OPSET, TARGETS, Target, check_opset
from service.recalibrations.options import (
    AutoForm,
    EstimatorForm,
    EstimatorIn,
    PreprocessForm,
    PreprocessIn,
    ReplaceForm,
)
from service.repositories.lifecycle import State
from service.repositories.records import Recalibration

# Far more than a real model needs: patterns times layers is the cost of matching.
_MAX_PATTERNS = 1000
_MAX_NAME = 200
# Samples that a report lists as left out; a client that left out more sends the first ones.
MAX_SKIPPED_SAMPLES = 1000
# The name of an ONNX node has no limit.
MAX_LAYER_NAME = 300
# No control characters.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
# Loading the runtime alone takes about half of it.
MIN_MEMORY_BYTES = 512 << 20
# A glob becomes a regular expression whose matching time grows with the square of its wildcards.
_MAX_PATTERN = 512
_MAX_WILDCARDS = 64


def _limit_wildcards(pattern: str) -> str:
    if sum(map(pattern.count, "*?[")) > _MAX_WILDCARDS:
        raise ValueError(f"a pattern has at most {_MAX_WILDCARDS} wildcards")
    return pattern


def _require_number(value: object) -> object:
    """Accept 3 and 3.0, which JSON does not distinguish, but neither "3" nor true."""
    if isinstance(value, str | bytes | bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports a ValueError
    return value


# After the limits of a field, so that the OpenAPI document shows them.
_JSON_NUMBER = BeforeValidator(_require_number)
_Integer = Annotated[int, _JSON_NUMBER]

TargetName = Literal["onnxruntime", "tensorrt", "openvino", "rknn", "coreml"]

_Pattern = Annotated[str, Field(max_length=_MAX_PATTERN), AfterValidator(_limit_wildcards)]


def _default_estimator(data: dict[str, Any]) -> AutoForm | ReplaceForm:
    """Return the default for a method: that of `bn_ops.adapt`."""
    if data.get("method") == "batch":
        return ReplaceForm(name="replace")
    return AutoForm(name="auto")


_MAX_TAGS = 20
_Tag = Annotated[str, Field(min_length=1, max_length=50, pattern=_PRINTABLE)]


def _opsets_of(target: Target) -> dict[str, Any]:
    """Return the JSON Schema of requests with a target: it limits `opset`."""
    first, last = target.opsets
    opset = {"type": ["integer", "null"], "minimum": first, "maximum": last}
    return {
        "properties": {"target": {"const": target.name}, "opset": opset},
        "required": ["target"],
    }


class RecalibrationIn(BaseModel):
    """The request for a recalibration."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "method": "exact",
                    "estimator": {"name": "auto"},
                    "layers": ["features.*", "!features.0.bn"],
                }
            ],
            "anyOf": [
                {"properties": {"target": {"type": "null"}}},
                *(_opsets_of(target) for target in TARGETS.values()),
            ],
        },
    )

    model: str = Field(description="Id of an uploaded model.")
    name: Annotated[str, Field(max_length=_MAX_NAME, pattern=_PRINTABLE)] = Field(
        default="",
        description="A name for people, which the list shows and searches.",
        examples=["MobileNetV2 on the new camera"],
    )
    tags: Annotated[list[_Tag], Field(max_length=_MAX_TAGS)] = Field(
        default_factory=list,
        description="Words by which people group recalibrations; the list searches them.",
        examples=[["camera-7", "nightly"]],
    )
    method: Literal["exact", "batch"] = Field(
        default="exact",
        description="`exact`: layer by layer in eval mode; `batch`: one pass in train mode.",
    )
    estimator: EstimatorIn = Field(
        default_factory=_default_estimator,
        description="How moments become statistics; by default `auto`, and `replace` with the "
        "method `batch`.",
    )
    layers: Annotated[list[_Pattern], Field(max_length=_MAX_PATTERNS)] | None = Field(
        default=None, description='Globs of layers to include; "!glob" excludes; null means all.'
    )
    preprocess: PreprocessIn | None = Field(
        default=None,
        description="The steps from an image to an array; null if batches are arrays.",
        examples=[
            {
                "resize": 256,
                "crop": 224,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            }
        ],
    )
    memory_bytes: Annotated[int, Field(ge=MIN_MEMORY_BYTES), _JSON_NUMBER] | None = Field(
        default=None,
        description="Limit of the private memory of the run's worker; null for the server's. "
        "A smaller limit allows more runs at the same time.",
    )
    allow_mismatch: bool = Field(
        default=False,
        description="Whether to continue if the first samples cannot be what the model was trained "
        "on (`input-mismatch`); the findings are then warnings of the report, and the "
        "verdict is `do-not-deploy`.",
    )
    opset: Annotated[int, Field(ge=MIN_OPSET, le=1000), _JSON_NUMBER] | None = Field(
        default=None,
        description="Version of ONNX's default operator set of the resulting models; null for the "
        "source's, or the nearest that the target supports.",
        examples=[17],
    )
    target: TargetName | None = Field(
        default=None,
        description="Where the folded model is deployed. The run fails with `target-unsupported` "
        "if the target lacks an operator of the model.",
    )
    max_samples: Annotated[int, Field(ge=1, le=10_000_000), _JSON_NUMBER] | None = Field(
        default=None,
        description="Number of samples to choose of the stream, which alone run through the "
        "network; null for all. The choice depends on their content and on `seed`, not on "
        "their order nor on the batches. Needs the method `exact`.",
        examples=[100_000],
    )
    seed: _Integer = Field(
        default=0, ge=0, le=MAX_SEED, description="Seed of the choice of `max_samples`."
    )
    keep_data: bool = Field(
        default=False, description="Whether the batches are kept after the recalibration has ended."
    )

    @model_validator(mode="after")
    def _check_target(self) -> RecalibrationIn:
        """Refuse an opset that the target does not load."""
        check_opset(self.opset, self.target)
        return self

    @model_validator(mode="after")
    def _check_unicode(self) -> RecalibrationIn:
        """Refuse lone surrogates (invalid Unicode), which JSON can express and UTF-8 cannot."""
        _require_unicode(self)
        return self


def _require_unicode(request: BaseModel) -> None:
    try:
        request.model_dump_json()
    except ValueError as error:
        raise ValueError("a string contains a lone surrogate (invalid Unicode)") from error


_Line = Annotated[str, Field(max_length=300, pattern=_PRINTABLE)]


class SkippedSampleIn(BaseModel):
    """A bad sample that the client left out of the stream."""

    model_config = ConfigDict(extra="forbid")

    index: _Integer = Field(
        ge=0, le=2**53, description="Position among all samples, bad ones included, from 0."
    )
    name: _Line | None = Field(default=None, description="Its file.")
    reason: _Line = Field(description="What is wrong with it.", examples=["NaN or Inf"])


class ReportDetailsIn(BaseModel):
    """Information of the client for the report, without effect on the run."""

    model_config = ConfigDict(extra="forbid")

    model_name: _Line | None = Field(default=None, description="Name of the model file.")
    data_name: _Line | None = Field(default=None, description="Name of the data.")
    command: Annotated[str, Field(max_length=4000, pattern=_PRINTABLE)] | None = Field(
        default=None, description="The command or call that repeats the run."
    )
    skipped_samples: Annotated[list[SkippedSampleIn], Field(max_length=MAX_SKIPPED_SAMPLES)] = (
        Field(default=[], description="Bad samples that were left out of the stream.")
    )


class StartIn(BaseModel):
    """The request to start a run."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"batches": 15, "report": {"model_name": "mobilenet_v2.onnx"}}]
        },
    )

    batches: _Integer = Field(ge=0, le=10_000_000, description="Number of batches in the stream.")
    source_batches: _Integer = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Number of source batches; a model without BatchNorm needs at least one.",
    )
    report: ReportDetailsIn | None = Field(
        default=None, description="Information of the client for the report."
    )

    @model_validator(mode="after")
    def _check_unicode(self) -> StartIn:
        """Refuse lone surrogates (invalid Unicode), which JSON can express and UTF-8 cannot."""
        _require_unicode(self)
        return self


class OptionsOut(BaseModel):
    """The options of a run."""

    method: str
    estimator: EstimatorForm
    layers: list[str] | None
    preprocess: PreprocessForm | None = None
    memory_bytes: int | None = None
    allow_mismatch: bool = False
    opset: int | None = None
    target: str | None = None
    max_samples: int | None = None
    seed: int = 0


class BatchesOut(BaseModel):
    """The stored batches of a stream; `total` is set when the stream is sealed."""

    received: int
    samples: int
    bytes: int
    total: int | None


class ProgressOut(BaseModel):
    """Progress of the current or last run.

    `seconds_left` is the remaining time of the phase at the current rate; null if it is unknown.
    """

    phase: str
    done: int
    total: int | None
    seconds_left: float | None


class MeasuredLayerOut(BaseModel):
    """A layer whose statistics have been measured.

    `drift` is how far they moved in units of σ; null if that is not a finite number.
    """

    name: Annotated[str, Field(max_length=MAX_LAYER_NAME)]
    drift: float | None


class MeasuredLayersOut(BaseModel):
    """The layers that have been measured, in the order of execution.

    `total` is the number of layers that the run measures; null while it is unknown.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"layers": [{"name": "features.0.1", "drift": 0.42}], "total": 52}]
        }
    )

    layers: list[MeasuredLayerOut]
    total: int | None


class VerdictReasonOut(BaseModel):
    """One reason for a verdict: a stable code, and a sentence with the numbers."""

    code: str
    text: str


class VerdictOut(BaseModel):
    """Whether to deploy the recalibrated model; the most important reason comes first."""

    code: VerdictCode
    sentence: str
    reasons: list[VerdictReasonOut]
    next_steps: list[str]


# Without null values: the framework omits them from the document.
_EXAMPLE: dict[str, Any] = {
    "id": "rc_3f0c9a526a354c528a0a5a3a5ce0a001",
    "name": "MobileNetV2 on the new camera",
    "tags": ["camera-7", "nightly"],
    "model": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "state": "failed",
    "options": {
        "method": "exact",
        "estimator": {"name": "auto"},
        "layers": ["features.*"],
        "preprocess": {"resize": 256, "crop": 224},
        "memory_bytes": 2147483648,
        "allow_mismatch": False,
    },
    "keep_data": False,
    "batches": {"received": 15, "samples": 480, "bytes": 1507200, "total": 15},
    "source_batches": {"received": 0, "samples": 0, "bytes": 0, "total": 0},
    "phase": "measuring",
    "progress": {"phase": "measuring", "done": 3, "total": 9, "seconds_left": 4.2},
    "error": {
        "type": "urn:bnrecal:problem:layer-not-finite",
        "title": "The model computes NaN or Inf",
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
    # Responses that were stored under idempotency keys before this member existed lack it.
    name: str = ""
    tags: list[str] = []
    model: str
    state: State
    options: OptionsOut
    keep_data: bool
    batches: BatchesOut
    # Responses that were stored under idempotency keys before this member existed lack it.
    source_batches: BatchesOut = BatchesOut(received=0, samples=0, bytes=0, total=None)
    phase: str | None
    progress: ProgressOut | None
    error: dict[str, Any] | None
    verdict: VerdictOut | None = Field(
        default=None, description="Whether to deploy the model; set when the state is `succeeded`."
    )
    attempts: int
    created: str
    updated: str
    ended: str | None

    @staticmethod
    def of(found: Recalibration) -> RecalibrationOut:
        """Return the wire form of a stored recalibration."""
        return RecalibrationOut(
            id=found.id,
            name=found.name,
            tags=list(found.tags),
            model=found.model,
            state=found.state,
            options=OptionsOut.model_validate(found.options),
            keep_data=found.keep_data,
            batches=BatchesOut(
                received=found.received,
                samples=found.samples,
                bytes=found.bytes - found.source_bytes,
                total=found.total,
            ),
            source_batches=BatchesOut(
                received=found.source_received,
                samples=found.source_samples,
                bytes=found.source_bytes,
                total=found.source_total,
            ),
            phase=found.phase,
            progress=_progress(found),
            error=found.error,
            verdict=None if found.verdict is None else VerdictOut.model_validate(found.verdict),
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
