"""The stream of samples, and how strongly neighboring samples resemble each other."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Correlation", "StreamReport"]


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
class StreamReport:
    """The stream of batches.

    Attributes:
        batches, samples: number of batches and samples read.
        correlation: None for a stream that is too short or constant.
    """

    batches: int
    samples: int
    correlation: Correlation | None = None
