"""A recalibration as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bn_ops.core.signature import TensorInfo
from service.errors import RecalibrationNotOpenError
from service.repositories.lifecycle import State
from service.repositories.models import parse_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """One stored recalibration.

    Attributes:
        seq: its place in the ledger's order.
        id: its name.
        owner: name of the token that opened it; empty where that has none.
        model: the model's id.
        inputs: the model's inputs in JSON form, copied so that batches can be checked without the
            model.
        options: `method`, `estimator`, `layers`, `preprocess`, `memory_bytes`.
        keep_data: whether the batches stay when it has ended.
        state: where it stands in the lifecycle.
        received, samples, bytes: of the stored batches.
        total: batches of the whole stream; None while it is open.
        phase, progress_done, progress_total: of the current or last run.
        phase_began, phase_first: when the phase began (RFC 3339 UTC) and where it stood then.
        seconds_left: estimate for the phase when its progress was last told; None: not known.
        error: a problem document; None unless it failed.
        attempts: runs that were begun.
        worker_deaths: runs whose worker died.
        data_removed: whether the batches are gone.
        created, updated, ended: RFC 3339 UTC.
    """

    seq: int
    id: str
    owner: str
    model: str
    inputs: list[dict[str, Any]]
    options: dict[str, Any]
    keep_data: bool
    state: State
    received: int
    samples: int
    bytes: int
    total: int | None
    phase: str | None
    progress_done: int | None
    progress_total: int | None
    phase_began: str | None
    phase_first: int | None
    seconds_left: float | None
    error: dict[str, Any] | None
    attempts: int
    worker_deaths: int
    data_removed: bool
    created: str
    updated: str
    ended: str | None

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Return what a batch must hold."""
        return parse_inputs(self.inputs)

    def image_input(self) -> str | None:
        """Return the name of the input that images feed; None where only arrays are taken."""
        if self.options.get("preprocess") is None:
            return None
        return str(self.inputs[0]["name"])  # with preprocess, a model has one input

    def require_open(self) -> None:
        """Refuse a new batch once the stream is sealed.

        Raises:
            RecalibrationNotOpenError: it is.
        """
        if self.state is not State.OPEN:
            raise RecalibrationNotOpenError(
                f"the recalibration is {self.state} and takes no new batch", state=str(self.state)
            )
