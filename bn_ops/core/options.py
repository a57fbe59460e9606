"""Options of a run: budget, progress, and everything that `recalibrate` and `adapt` accept."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bn_ops.core.estimators import Auto, Estimator, Replace
from bn_ops.core.statistics import LayerName
from bn_ops.core.train_accumulator import Variance, check_variance
from bn_ops.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from bn_ops.core.batches import Select

__all__ = [
    "MAX_SEED",
    "Budget",
    "Execution",
    "LayerCallback",
    "LayerDrift",
    "Metric",
    "Progress",
    "ProgressCallback",
    "RecalibrateOptions",
    "ShardedStream",
    "check_choice",
    "in_phase",
    "progress_callback",
    "silent",
]

Execution = Literal["auto", "graph", "optimized"]
"""How the ONNX engine runs a network: `graph` as it is, which every model allows; `optimized` as
onnxruntime optimizes it, which the structure of most models allows; `auto` chooses."""

MAX_SEED = (1 << 53) - 1
"""JSON keeps every integer up to this one."""

_METHODS = ("exact", "batch")
_ENGINES = ("auto", "onnx", "torch")

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits for the tensors that wait at the frontier.

    Attributes:
        memory_bytes: kept in memory; the rest is written to files.
        spill_bytes: kept in files; beyond it the run fails with `SpillLimitError`.
        spill_folder: folder of the files; None for the system's temporary folder.
    """

    memory_bytes: int = 2 * _GIB
    spill_bytes: int = 64 * _GIB
    spill_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.memory_bytes < 0 or self.spill_bytes < 0:
            raise OptionError(f"a budget cannot be negative: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a run.

    Attributes:
        phase: `sampling` (only with `max_samples`), `reading`, `measuring`, `choosing` (only with
            the estimator `Auto`), `folding` or `verifying`, in this order.
        done: steps completed in the phase.
        total: steps in the phase, or None while unknown (the length of a stream).
    """

    phase: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDrift:
    """How far the statistics of one layer moved, known before the run has ended.

    Attributes:
        name: the layer.
        drift: distance between its source and its measured statistics in units of σ, as
            `DriftSummary.wasserstein` in the report.
        total: number of layers that the run measures.
    """

    name: LayerName
    drift: float
    total: int


LayerCallback = Callable[[LayerDrift], None]
"""Called as soon as the statistics of a layer have been measured, in the order of execution."""


class ShardedStream(Protocol):
    """A stream that is read and measured in shards elsewhere; messages are bytes.

    Attributes:
        execution: how every shard runs the network.
    """

    execution: Execution

    def step(self, settled: bytes | None, /) -> Sequence[bytes]:
        """Return the moments of all shards (`ShardMoments`) of the next level.

        Args:
            settled: the `SettledLevel` that was measured last; None at first.
        """
        ...

    def observations(self) -> Sequence[bytes]:
        """Return the `ShardObservation` of each shard, after the first level."""
        ...

    def first_samples(self) -> bytes:
        """Return the first samples of the stream, as its first shard keeps them."""
        ...

    def samples(self, digests: Sequence[Sequence[bytes]], /) -> Sequence[bytes]:
        """Return samples of each shard by their digests."""
        ...


Metric = Callable[[Any, Any], float]
"""Returns a score, the higher the better, for outputs and labels of the same samples."""

ProgressCallback = Callable[[Progress], None]
"""Called between steps; raise `CancelledError` in it to stop the run with nothing changed."""


def silent(progress: Progress) -> None:
    """Ignore progress."""
    del progress


def in_phase(progress: ProgressCallback, phase: str | None) -> ProgressCallback:
    """Return a callback that reports every step under one phase; unchanged for None."""
    if phase is None or progress is silent:
        return progress
    return lambda step: progress(Progress(phase=phase, done=step.done, total=step.total))


def progress_callback(value: object) -> ProgressCallback:
    """Return the callback for the value of a `progress=` option.

    Args:
        value: a callable, True to print to standard error, or None or False for no progress.

    Raises:
        OptionError: anything else.
    """
    if value is None or value is False:
        return silent
    if value is True:
        return _Printer()
    if callable(value):
        return value
    raise OptionError(
        f"progress= takes a function of one Progress, or True to print to standard error, "
        f"got {value!r}"
    )


class _Printer:
    """Writes progress to standard error: one line per phase, updated in place on a terminal."""

    def __init__(self) -> None:
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        terminal = sys.stderr.isatty()
        if progress.phase != self._phase:
            sys.stderr.write("\n" if terminal and self._phase else "")
            self._phase = progress.phase
        elif not terminal and progress.done != progress.total:
            return
        total = "" if progress.total is None else f" of {progress.total}"
        line = f"{progress.phase}: {progress.done}{total}"
        sys.stderr.write(f"\r{line}\x1b[K" if terminal else f"{line}\n")
        if terminal and progress.done == progress.total:
            sys.stderr.write("\n")
            self._phase = ""
        sys.stderr.flush()


def check_choice(max_samples: int | None, seed: int, *, method: str) -> None:
    """Check the options of a choice of samples.

    Raises:
        OptionError: a value is invalid, or the options do not fit together.
    """
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise OptionError(f"seed= is an integer from 0 to 2^53 - 1, got {seed!r}")
    if max_samples is None:
        if seed:
            raise OptionError("seed= is for the choice of samples: pass max_samples=")
        return
    if type(max_samples) is not int or max_samples < 1:
        raise OptionError(f"max_samples= is a number of samples, at least 1, got {max_samples!r}")
    if method != "exact":
        raise OptionError('max_samples= needs method="exact", which does not depend on the batches')


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalibrateOptions:
    """The options of one run; `bn_ops.recalibrate` documents each.

    With `shards` the stream is measured by shards elsewhere, and the run has no batches of its own.

    Raises:
        OptionError: an option has an unknown value.
    """

    method: str = "exact"
    estimator: Estimator = field(default_factory=Replace)
    layers: Sequence[str] | None = None
    engine: str = "auto"
    budget: Budget | None = None
    progress: ProgressCallback = silent
    select: Select | None = None
    threads: int | None = None
    variance: Variance = "population"
    compare: bool = False
    evaluate: Iterable[Any] | None = None
    call: Callable[[nn.Module, Any], object] | None = None
    adopt_untracked: bool = False
    shared_passes: int = 20
    shared_tolerance: float = 1e-5
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None
    metric: Metric | None = None
    max_drop: float = 0.0
    allow_mismatch: bool = False
    source_batches: Iterable[Any] | None = None
    on_layer: LayerCallback | None = None
    max_samples: int | None = None
    seed: int = 0
    shards: ShardedStream | None = None

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise OptionError(f"unknown method {self.method!r}; choose from {', '.join(_METHODS)}")
        if self.engine not in _ENGINES:
            raise OptionError(f"unknown engine {self.engine!r}; choose from {', '.join(_ENGINES)}")
        check_variance(self.variance)
        if isinstance(self.estimator, Auto) and self.method != "exact":
            raise OptionError('the estimator Auto needs method="exact"')
        others = (self.source_batches, self.max_samples)
        if self.shards is not None and (self.method != "exact" or others != (None, None)):
            raise OptionError(
                'shards need method="exact", all samples, and a model with BatchNorm layers'
            )
        if self.metric is not None and self.evaluate is None:
            raise OptionError("metric= scores labeled samples: pass them as evaluate=")
        for name in ("select", "call", "metric", "on_layer"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise OptionError(f"{name}= takes a function, got {value!r}")
        check_choice(self.max_samples, self.seed, method=self.method)
        if not 0 <= self.max_drop < math.inf:
            raise OptionError(f"max_drop= is a finite number ≥ 0, got {self.max_drop}")

    def require_default(self, names: Iterable[str], *, reason: str) -> None:
        """Reject options that have no meaning for a model.

        Args:
            names: options that must have their default value.
            reason: why, for the message.

        Raises:
            OptionError: names the options that were given.
        """
        defaults = {item.name: item.default for item in fields(self)}
        given = [name for name in names if getattr(self, name) != defaults[name]]
        if given:
            raise OptionError(f"{', '.join(given)}: {reason}")
