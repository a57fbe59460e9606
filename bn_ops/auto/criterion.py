"""The criterion: how well predictions distinguish classes, and how certain they are.

For class probabilities p_i of n samples and their mean p̄, the mutual information between sample and
class is the mean of KL(p_i ‖ p̄). It is large where the predictions are certain one by one and cover
many classes together; a network whose statistics do not fit predicts few classes, or is uncertain.
The criterion subtracts half of the entropy once more:

    J_i = KL(p_i ‖ p̄) - ½·H(p_i)

Two sets of statistics are compared on the same samples, so the error of the difference is paired.

Source of the mutual information as an objective without labels: Bridle, Heading & MacKay 1991,
"Unsupervised Classifiers, Mutual Information and 'Phantom Targets'"; for adaptation to a new
domain: Liang, Hu & Feng 2020, "Do We Really Need to Access the Source Data?", section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array
from bn_ops.errors import OptionError

__all__ = ["Gain", "Scores", "gain", "score"]

_RANK = 3

# Probabilities below this count as this; its logarithm is finite.
_TINY = 1e-12

# Gains are rounded to this many decimals before they are compared: another order of the stream
# changes sums in their last bits, which must not change a decision.
_DECIMALS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The score of one set of statistics on the probe.

    Attributes:
        objective: J_i of each sample, shape (n,), in nats; for several positions per sample, their
            mean.
        entropy: mean entropy of a prediction, in nats.
        distinct_classes: exp of the mutual information: the number of classes that the predictions
            distinguish, between 1 and min(n, K).
        classes: number of classes K.
        positions: number of predictions per sample.
    """

    objective: Float64Array
    entropy: float
    distinct_classes: float
    classes: int
    positions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The difference between two scores on the same samples.

    Attributes:
        value: mean rise of J, in units of ln min(n, K).
        error: paired standard error of `value`; infinite for one sample.
        entropy_rise: rise of the mean entropy, in units of ln K.
    """

    value: float
    error: float
    entropy_rise: float


def score(probabilities: NDArray[np.floating]) -> Scores:
    """Score class probabilities.

    Args:
        probabilities: shape (n, P, K), n ≥ 1 samples, P ≥ 1 positions, K ≥ 2 classes; the last axis
            sums to 1.

    Raises:
        OptionError: another shape.
    """
    if probabilities.ndim != _RANK or probabilities.shape[2] < 2 or 0 in probabilities.shape:  # noqa: PLR2004 - K ≥ 2
        raise OptionError(
            f"expected class probabilities (samples, positions, classes ≥ 2), "
            f"got shape {probabilities.shape}"
        )
    p = probabilities.astype(np.float64)
    logs = np.log(np.maximum(p, _TINY))
    mean_logs = np.log(np.maximum(p.mean(axis=(0, 1)), _TINY))
    entropy = -(p * logs).sum(axis=2).mean(axis=1)
    divergence = (p * (logs - mean_logs)).sum(axis=2).mean(axis=1)
    return Scores(
        objective=divergence - entropy / 2,
        entropy=float(entropy.mean()),
        distinct_classes=float(np.exp(divergence.mean())),
        classes=p.shape[2],
        positions=p.shape[1],
    )


def gain(before: Scores, after: Scores) -> Gain:
    """Compare two scores on the same samples; the result is rounded to 1e-6."""
    n = before.objective.size
    unit = math.log(max(2, min(n, before.classes)))
    rise = (after.objective - before.objective) / unit
    error = float(rise.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Gain(
        value=round(float(rise.mean()), _DECIMALS),
        error=round(error, _DECIMALS),
        entropy_rise=round((after.entropy - before.entropy) / math.log(before.classes), _DECIMALS),
    )
