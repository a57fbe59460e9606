"""What the server's JSON objects mean on this side: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnrecal_client.problems import Problem

__all__ = [
    "ENDED_STATES",
    "LayerInfo",
    "ModelDescription",
    "Progress",
    "Recalibration",
    "StoredBatch",
    "Stream",
    "TensorInfo",
]

ENDED_STATES = frozenset({"succeeded", "failed", "cancelled", "expired"})
"""States that a recalibration never leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One named input or output of a model.

    Attributes:
        name: the name in the graph.
        dtype: numpy's name of the element type.
        shape: an int where the model demands that size, a string or None where it is free; the
            first axis counts samples. None instead of a tuple: rank unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One BatchNorm layer of a model.

    Attributes:
        name: stable name of the layer.
        channels: C, or None where the model does not say.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model as the server holds it.

    Attributes:
        id: sha256 of the content, in hex.
        bytes: size of the content.
        created: RFC 3339 time of the upload.
        inputs: what a batch must hold.
        outputs: what the model returns.
        layers: every BatchNorm layer, in the order of execution.
        warnings: sentences for a person.
    """

    id: str
    bytes: int
    created: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """One batch that the server has acknowledged.

    Attributes:
        index: place in the stream, from 0.
        samples: size of the first axis.
        bytes: size of the body.
        sha256: digest of the body, in hex.
    """

    index: int
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        phase: `model` and `sending` on this side, `queued` and the server's own phases, `fetching`.
        done: units done in this phase (batches, layers or files, as the phase counts).
        total: units in this phase, None while unknown.
        seconds_left: what the server's phase will take at its rate so far; None while unknown.
        note: a sentence for a person when something is unusual, such as a server that is away.
    """

    phase: str
    done: int
    total: int | None = None
    seconds_left: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What has arrived of a recalibration's stream.

    Attributes:
        received: number of batches.
        samples: number of samples.
        bytes: sum of the bodies' sizes.
        total: number of batches of the whole stream, None until it is sealed by `start`.
    """

    received: int
    samples: int
    bytes: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """One recalibration as the server last described it.

    Attributes:
        id: its id (`rc_…`).
        model: id of the model.
        state: open, sealed, queued, running, succeeded, failed or cancelled.
        options: `method`, `estimator` and `layers` as the server holds them.
        batches: what has arrived.
        phase: what the worker does now.
        progress: how far that phase is.
        error: why it failed.
        attempts: how often a worker has taken it up.
        created: RFC 3339 times.
        updated: likewise.
        ended: likewise, None until it has ended.
    """

    id: str
    model: str
    state: str
    options: Mapping[str, object]
    batches: Stream
    phase: str | None
    progress: Progress | None
    error: Problem | None
    attempts: int
    created: str
    updated: str
    ended: str | None

    @property
    def has_ended(self) -> bool:
        """Whether the state is one that a recalibration never leaves."""
        return self.state in ENDED_STATES
