"""The stream of samples, where it comes from, and how alike neighboring samples are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Correlation", "Origin", "SkippedSample", "StreamReport", "Subsample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """How strongly neighboring samples of the stream resemble each other.

    Measured by `bn_ops.diagnostics.autocorrelation`.

    Attributes:
        blocks, block_samples: number of contiguous blocks compared, and samples per block.
        design_effect: variance of block means divided by that of independent samples; about 1
            without correlation, at most `block_samples`.
        error_ratio: standard error over blocks divided by that over samples, √design_effect.
        effective_samples: number of independent samples that carry the same information; at most
            the number of samples.
        suspicious: whether the effect is large enough, and unlikely enough by chance, to warn.
    """

    blocks: int
    block_samples: int
    design_effect: float
    error_ratio: float
    effective_samples: int
    suspicious: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Subsample:
    """The samples that were chosen of a stream.

    Attributes:
        max_samples: number of samples asked for.
        seed: seed of the choice.
        seen: number of samples read.
        chosen: number of samples chosen and measured.
        standard_error: 1/√chosen, the standard error of the mean of independent samples in units of
            their σ.
    """

    max_samples: int
    seed: int
    seen: int
    chosen: int
    standard_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """The stream of batches.

    Attributes:
        batches, samples: number of batches and samples measured.
        correlation: None for a stream that is too short or constant.
        sha256: digest of the digests of all samples in order, which does not depend on how the
            stream is split into batches; None where the samples were not compared before and after,
            or where batches cannot be split into samples.
        subsample: the choice of samples; None where every sample that was read was measured.
    """

    batches: int
    samples: int
    correlation: Correlation | None = None
    sha256: str | None = None
    subsample: Subsample | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSample:
    """A bad sample that the sender of the stream left out.

    Attributes:
        index: position among all samples, counted from 0, bad ones included.
        name: its file; None for a sample without one.
        reason: what is wrong with it, such as `NaN or Inf`.
    """

    index: int
    name: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was run, for people: nothing is computed from it.

    Attributes:
        created: when the run began, in RFC 3339 form, UTC, whole seconds.
        model_name, data_name: names of the model file and of the data; None where unknown.
        command: the command or call that made the report; None where unknown.
    """

    created: str | None = None
    model_name: str | None = None
    data_name: str | None = None
    command: str | None = None
