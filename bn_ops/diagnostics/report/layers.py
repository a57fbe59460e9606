"""One BatchNorm layer: drift, precision, and its input before and after."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ActivationReport", "ActivationSummary", "Confidence", "DriftSummary", "LayerReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSummary:
    """How far a layer's statistics moved, over its channels, in units of the source's √(σ² + ε).

    Attributes:
        mean_shift_median, mean_shift_max: |Δμ|/σs.
        log_var_ratio_median, log_var_ratio_max: |ln((σt² + ε)/(σs² + ε))|.
        wasserstein: root mean square over channels of the 2-Wasserstein distance between the two
            normal distributions, √(Δμ² + Δσ²)/σs (Dowson & Landau 1982, one dimension).
    """

    mean_shift_median: float
    mean_shift_max: float
    log_var_ratio_median: float
    log_var_ratio_max: float
    wasserstein: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """How precisely one layer's statistics are known; see `bn_ops.diagnostics.build_report`.

    Attributes:
        mean_error: z·SE(μ)/σ, half of the 95 % confidence interval of the mean in units of σ: the
            quantile over live channels at which convergence is decided.
        scale_error: z·SE(σ²)/(2σ²) at the same quantile: the relative error of the layer's scale.
        samples_needed: estimated number of samples for which both reach the target error,
            including the 1/n bias.
    """

    mean_error: float
    scale_error: float
    samples_needed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSummary:
    """A layer's input, summarized over its channels.

    Attributes:
        mean: average over channels of the input's mean.
        spread: root mean square over channels of its standard deviation.
        normalized_shift: median over channels of |mean - stored mean| / √(stored var + ε); 0 where
            the layer's statistics fit.
        normalized_spread: median over channels of √(var / (stored var + ε)); 1 where they fit.
    """

    mean: float
    spread: float
    normalized_shift: float
    normalized_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationReport:
    """A layer's input on the first samples of the stream, in two runs of the whole network.

    Attributes:
        samples: number of samples that reached the layer.
        before: with the source statistics in every layer.
        after: with the new statistics.
    """

    samples: int
    before: ActivationSummary
    after: ActivationSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One BatchNorm layer.

    Attributes:
        name: the layer.
        status: `recalibrated`, `unchanged` (`Auto` kept the source statistics), `excluded` (by a
            pattern), `unreached` (no batch reached it) or `unsupported`.
        reason: why the layer was not recalibrated, as text.
        channels: C.
        samples, count: samples and values per channel measured.
        drift: how far the statistics moved.
        confidence: how precisely they are known; None below two samples or without a live channel.
        dead_channels: channels without variance in both domains, which keep their variance.
        silenced_channels: channels that lost their variance in the target domain only; they keep
            the source's.
        amplification: largest gain ratio of a channel, new over old.
        residual_mean, residual_var: distance from its own fixed point of a layer that is used
            several times per pass; None elsewhere.
        activations: the layer's input before and after; None where the two were not compared.
    """

    name: str
    status: str
    reason: str | None = None
    channels: int | None = None
    samples: int | None = None
    count: int | None = None
    drift: DriftSummary | None = None
    confidence: Confidence | None = None
    dead_channels: tuple[int, ...] = ()
    silenced_channels: tuple[int, ...] = ()
    amplification: float | None = None
    residual_mean: float | None = None
    residual_var: float | None = None
    activations: ActivationReport | None = None
