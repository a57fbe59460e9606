"""Values of the server's JSON objects: frozen, typed, checked while they are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bnrecal_client.errors import BnrecalError, Problem, error_of

__all__ = [
    "ENDED_STATES",
    "Import",
    "ImportedObject",
    "LayerInfo",
    "ModelDescription",
    "Progress",
    "Recalibration",
    "ReportDetails",
    "SkippedSample",
    "StoredBatch",
    "Stream",
    "TensorInfo",
    "Verdict",
    "VerdictReason",
]

ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})
"""States that a recalibration never leaves."""

# Longest texts, in characters, and most left-out samples that a server takes for a report.
_MAX_NAME = 300
_MAX_COMMAND = 4000
_MAX_SKIPPED = 1000


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One named input or output of a model.

    Attributes:
        name: the name in the graph.
        dtype: numpy's name of the element type.
        shape: an int where the model requires that size, a string or None where it is free; the
            first axis counts samples. None instead of a tuple if the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class LayerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One BatchNorm layer of a model.

    Attributes:
        name: stable name of the layer.
        channels: C, or None where the model does not state it.
        eps: the layer's epsilon.
        affine: whether a scale or shift other than 1 and 0 is stored.
        input_rank: number of axes of the layer's input, or None where unknown.
        reason: why the layer cannot be recalibrated; None when it can.
    """

    name: str
    channels: int | None
    eps: float
    affine: bool
    input_rank: int | None
    reason: str | None


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the server stores.

    Attributes:
        id: sha256 of the content, in hex.
        bytes: size of the content.
        created: RFC 3339 time of the upload.
        inputs: the arrays that a batch holds.
        outputs: the arrays that the model returns.
        layers: every BatchNorm layer, in the order of execution.
        warnings: sentences about what may be wrong with the model.
        needs_source_batches: whether the model has no BatchNorm layer, so that its recalibration
            needs `source_batches`.
    """

    id: str
    bytes: int
    created: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    warnings: tuple[str, ...]
    needs_source_batches: bool = False


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch that the server has acknowledged.

    Attributes:
        index: position in the stream, from 0.
        samples: size of the first axis.
        bytes: size of the body.
        sha256: digest of the body, in hex.
    """

    index: int
    samples: int
    bytes: int
    sha256: str


class ImportedObject(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an object that a server was asked to import.

    Attributes:
        url: the object.
        index: index of its batch in the stream.
        status: `stored`, `present` if the index had this batch before, or `failed`.
        samples, bytes, sha256: of the batch; None for an object that failed.
        error_document: JSON form of the problem; `error` is its typed form.
    """

    url: str
    index: int
    status: str
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    error_document: Mapping[str, Any] | None = msgspec.field(name="error", default=None)

    @property
    def error(self) -> BnrecalError | None:
        """Why there is no batch; None if there is one."""
        return None if self.error_document is None else error_of(Problem.read(self.error_document))


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the objects of an import.

    Attributes:
        objects: the objects that were tried, in stream order.
        remaining: number of objects that were not tried, because a limit was reached or the
            recalibration is no longer open; the same call continues.
    """

    objects: tuple[ImportedObject, ...]
    remaining: int = 0

    @property
    def failed(self) -> tuple[ImportedObject, ...]:
        """The objects that have no batch."""
        return tuple(one for one in self.objects if one.status == "failed")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is.

    Attributes:
        phase: `model`, `sending-source` and `sending` on this side, `queued` and the server's own
            phases, `fetching`; `waiting` between two tries of a request.
        done: finished units of this phase (batches, layers or files).
        total: units in this phase, None while unknown.
        seconds_left: estimated rest of the server's phase, in seconds; None while unknown.
        note: a sentence about something unusual, such as an unreachable server.
    """

    phase: str
    done: int
    total: int | None = None
    seconds_left: float | None = None
    note: str | None = None


class SkippedSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample that was left out of the stream because it is bad.

    Attributes:
        index: its position in the stream, from 0, with all samples counted.
        name: its file, or a name for messages; None for a sample of an array.
        reason: what is wrong with it.
    """

    index: int
    name: str | None = None
    reason: str


class ReportDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Information of the caller for the report, without effect on the run.

    Attributes:
        model_name: name of the model file.
        data_name: name of the data.
        command: the command or call that repeats the run.
        skipped_samples: samples that were left out; a server gets the first 1,000.
    """

    model_name: str | None = None
    data_name: str | None = None
    command: str | None = None
    skipped_samples: tuple[SkippedSample, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the members that are known, as a server takes them."""
        names = {
            "model_name": _shown(self.model_name, _MAX_NAME),
            "data_name": _shown(self.data_name, _MAX_NAME),
            "command": _shown(self.command, _MAX_COMMAND),
        }
        known: dict[str, object] = {key: value for key, value in names.items() if value}
        if self.skipped_samples:
            known["skipped_samples"] = [
                {
                    "index": sample.index,
                    "name": _shown(sample.name, _MAX_NAME),
                    "reason": _shown(sample.reason, _MAX_NAME),
                }
                for sample in self.skipped_samples[:_MAX_SKIPPED]
            ]
        return known


def _shown(text: str | None, longest: int) -> str | None:
    """Return text that a server accepts: one line of bounded length, in valid Unicode."""
    if text is None:
        return None
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in valid)[
        :longest
    ]


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """The stored part of a recalibration's stream.

    Attributes:
        received: number of batches.
        samples: number of samples.
        bytes: total size of the bodies.
        total: number of batches of the whole stream, None until it is sealed by `start`.
    """

    received: int
    samples: int
    bytes: int
    total: int | None


class VerdictReason(msgspec.Struct, frozen=True, kw_only=True):
    """One reason for a verdict.

    Attributes:
        code: stable code, such as `no-gain`.
        text: one sentence with the numbers.
    """

    code: str
    text: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the recalibrated model should be deployed.

    Attributes:
        code: `deploy`, `check-with-labels` or `do-not-deploy`; a newer server may have others.
        sentence: the verdict as one sentence.
        reasons: the reasons, the most important first.
        next_steps: what to do next, as imperative sentences.
    """

    code: str
    sentence: str
    reasons: tuple[VerdictReason, ...] = ()
    next_steps: tuple[str, ...] = ()

    @property
    def is_rejection(self) -> bool:
        """Whether the model should not be deployed."""
        return self.code == "do-not-deploy"


class Recalibration(msgspec.Struct, frozen=True, kw_only=True):
    """One recalibration as the server last described it.

    Attributes:
        id: its id (`rc_…`).
        model: id of the model.
        state: open, sealed, queued, running, succeeded, failed or cancelled.
        options: `method`, `estimator`, `layers` and the like, as the server stores them.
        batches: the stored part of the stream.
        source_batches: the stored part of the stream of source samples.
        phase: current phase of the run, None before it starts.
        progress: how far that phase is.
        name: a name for people; may be empty.
        tags: words by which people group recalibrations.
        verdict: whether to deploy the model; None until the recalibration has succeeded.
        error_document: JSON form of the problem that ended the run; `error` is its typed form.
        attempts: how often a worker has started the run.
        created: RFC 3339 time of creation.
        updated: RFC 3339 time of the last change.
        ended: RFC 3339 time of the end, None until then.
    """

    id: str
    model: str
    state: str
    options: Mapping[str, Any]
    batches: Stream
    phase: str | None
    progress: Progress | None
    error_document: Mapping[str, Any] | None = msgspec.field(name="error")
    attempts: int
    created: str
    updated: str
    ended: str | None
    source_batches: Stream = Stream(received=0, samples=0, bytes=0, total=None)
    name: str = ""
    tags: tuple[str, ...] = ()
    verdict: Verdict | None = None

    @property
    def error(self) -> Problem | None:
        """Why the run failed; None if it did not."""
        return None if self.error_document is None else Problem.read(self.error_document)

    @property
    def summary(self) -> str:
        """The state in a few words, with the progress of a run or the verdict of a result."""
        if self.verdict is not None:
            return f"{self.state}, {self.verdict.code}"
        if self.progress is None or self.has_ended:
            return self.state
        total = "" if self.progress.total is None else f" of {self.progress.total:,}"
        return f"{self.state}, {self.progress.phase} {self.progress.done:,}{total}"

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return self.state in ENDED_STATES
