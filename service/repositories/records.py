"""Records: rows of the ledger as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bn_ops.core.signature import TensorInfo
from service.errors import RecalibrationNotOpenError
from service.formats.layout import inputs_from_json
from service.repositories.lifecycle import State


class Stream(StrEnum):
    """A stream of a recalibration; the value is stored in the ledger."""

    TARGET = "target"
    """Samples of the new domain; most recalibrations have only this stream."""

    SOURCE = "source"
    """Samples of the domain that the model was trained on, for a model without BatchNorm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that was acknowledged.

    Attributes:
        seq: position in the order of upload.
        id: SHA-256 of its bytes in hexadecimal.
        folder: name of the folder of its file.
        bytes: size.
        description: `inputs`, `outputs`, `layers`, `warnings` and, for a model that needs source
            batches, `without_batchnorm`, as reported by the worker.
        created: RFC 3339 UTC.
    """

    seq: int
    id: str
    folder: str
    bytes: int
    description: dict[str, Any]
    created: str

    def inputs(self) -> tuple[TensorInfo, ...]:
        """Return the inputs that a batch must hold."""
        return inputs_from_json(self.description["inputs"])

    def without_batchnorm(self) -> str | None:
        """Return the code of bn_ops for a model that needs source batches, None for any other."""
        found = self.description.get("without_batchnorm")
        return None if found is None else str(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch that was acknowledged.

    Attributes:
        index: position in the stream.
        samples: size of the first axis.
        bytes: size of the body.
        sha256: digest of the body in hexadecimal.
        format: name of a format, see `service.formats.registry`.
        blob: name of its file; random, so that concurrent uploads do not overwrite each other.
        start: offset in that file, which is a pack; None where the batch is the whole file.
    """

    index: int
    samples: int
    bytes: int
    sha256: str
    format: str
    blob: str
    start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """A result file.

    Attributes:
        name: its name.
        bytes: its size.
        sha256: its digest in hexadecimal.
        claim: the claim of the run that wrote it; None for a result from before there were claims.
    """

    name: str
    bytes: int
    sha256: str
    claim: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event: its number, its kind and its data as JSON.

    The data of `state` and `progress` is the recalibration, that of `layers` the layers that have
    been measured since the last event of this kind.
    """

    seq: int
    kind: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token.

    Attributes:
        name: name of the token; the owner of everything that is created with it.
        sha256: SHA-256 of the token in hexadecimal.
        admin: whether it gives access to the data of all owners.
        limit_bytes: maximum bytes of models and batches of its owner; None for no limit.
        limit_open: maximum number of its owner's recalibrations that have not ended; None for no
            limit.
    """

    name: str
    sha256: str
    admin: bool = False
    limit_bytes: int | None = None
    limit_open: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token with its time of creation (RFC 3339 UTC)."""

    token: Token
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """A recalibration.

    Attributes:
        seq: position in the order of creation.
        id: its id, `rc_` and 32 hexadecimal digits.
        owner: name of the token that created it; empty for a token without a name.
        name: a name for people; may be empty.
        tags: words by which people group recalibrations.
        model: id of the model.
        inputs: the model's inputs in JSON form, copied so that batches can be checked without the
            model.
        options: `method`, `estimator`, `layers`, `preprocess`, `memory_bytes`, `allow_mismatch`,
            `opset`, `target`, `max_samples`, `seed`, and `report` (what the report names)
            once it is known.
        keep_data: whether the batches are kept after its end.
        state: its state.
        received, samples: totals of the stored batches of the target stream.
        bytes: size of all stored batches, of both streams.
        total: number of batches in the complete target stream; None while it is open.
        source_received, source_samples, source_bytes: totals of the source stream.
        source_total: number of batches in the complete source stream; None while it is open, and in
            recalibrations from before there were source streams.
        phase, progress_done, progress_total: progress of the current or last run.
        phase_began, phase_first: when the phase began (RFC 3339 UTC), and its progress then.
        seconds_left: estimate for the phase at the last progress event; None if unknown.
        error: a problem document; None unless it failed.
        verdict: the report's verdict in JSON form; None until it succeeded, and in recalibrations
            from before there were verdicts.
        attempts: number of runs that were started, without those that a shutdown ended.
        worker_crashes: number of runs whose worker crashed.
        claims: number of times that a process claimed the run; identifies the current run.
        data_removed: whether the batches were deleted.
        created, updated, ended: RFC 3339 UTC.
    """

    seq: int
    id: str
    owner: str
    name: str
    tags: tuple[str, ...]
    model: str
    inputs: list[dict[str, Any]]
    options: dict[str, Any]
    keep_data: bool
    state: State
    received: int
    samples: int
    bytes: int
    total: int | None
    source_received: int
    source_samples: int
    source_bytes: int
    source_total: int | None
    phase: str | None
    progress_done: int | None
    progress_total: int | None
    phase_began: str | None
    phase_first: int | None
    seconds_left: float | None
    error: dict[str, Any] | None
    verdict: dict[str, Any] | None
    attempts: int
    worker_crashes: int
    claims: int
    data_removed: bool
    created: str
    updated: str
    ended: str | None

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Return the inputs that a batch must hold."""
        return inputs_from_json(self.inputs)

    def image_input(self) -> str | None:
        """Return the name of the input that images are fed to; None if it accepts only arrays."""
        if self.options.get("preprocess") is None:
            return None
        return str(self.inputs[0]["name"])  # with preprocess, a model has one input

    def require_open(self) -> None:
        """Check that the stream accepts new batches.

        Raises:
            RecalibrationNotOpenError: the stream is sealed.
        """
        if self.state is not State.OPEN:
            raise RecalibrationNotOpenError(
                f"the recalibration is {self.state} and accepts no new batches",
                state=str(self.state),
            )
