"""How `Auto` chose the statistics, and whether to deploy the model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bn_ops.core.json_form import Json, json_object

__all__ = [
    "Candidate",
    "CandidateScore",
    "Choice",
    "LabeledScore",
    "ReasonCode",
    "Verdict",
    "VerdictCode",
    "VerdictReason",
]


class Candidate(StrEnum):
    """Statistics that `Auto` compares, in the order of how far they move from the source.

    A share w of the target is the mixture of the two domains: μ = μs + w(μt - μs),
    σ² = (1 - w)σs² + wσt² + w(1 - w)(μt - μs)².
    """

    SOURCE = "source"
    """The source statistics in every layer: nothing is recalibrated."""

    SMALL = "small"
    """A share of 0.02 of the target in every layer."""

    EARLY = "early"
    """The target in the first third of the layers, and a share of 0.1 in the later ones."""

    SHRINK = "shrink"
    """What the estimator `Shrink` gives; compared only where labels decide."""

    REPLACE = "replace"
    """The target in every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScore:
    """One candidate's predictions compared with those of the source on the same samples.

    Attributes:
        candidate: the candidate.
        gain: rise of the criterion, in units of ln min(n, K) for n samples and K classes.
        gain_error: paired standard error of the gain; None for a single sample.
        entropy_rise: rise of the mean entropy of a prediction, in units of ln K.
        distinct_classes: number of classes that the predictions distinguish, between 1 and K.
    """

    candidate: Candidate
    gain: float
    gain_error: float | None
    entropy_rise: float
    distinct_classes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledScore:
    """One candidate on the labeled samples.

    Attributes:
        candidate: the candidate.
        score: accuracy, or the caller's metric; higher is better.
    """

    candidate: Candidate
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How `Auto` chose the statistics; computed by `bn_ops.auto`.

    Attributes:
        candidate: the candidate whose statistics the model has.
        scores: the candidates that were compared with the source.
        samples: number of samples of the probe that they were compared on.
        output: name of the output that the criterion read; None where no output holds classes.
        classes: number of classes K of that output; None where no output holds classes.
        distinct_classes: number of classes that the predictions distinguish: the largest of the
            candidates; None where no output holds classes.
        varied: whether that is enough for a moderate gain to count, or was declared.
        broad: whether that is enough for a large gain to count although predictions are less
            certain, or was declared.
        labeled: the candidates that were compared on labeled samples; the best of them was taken,
            whatever the criterion said. Empty without labels.
    """

    candidate: Candidate
    scores: tuple[CandidateScore, ...]
    samples: int
    output: str | None = None
    classes: int | None = None
    distinct_classes: float | None = None
    varied: bool = False
    broad: bool = False
    labeled: tuple[LabeledScore, ...] = ()


class VerdictCode(StrEnum):
    """What to do with the recalibrated model."""

    DEPLOY = "deploy"
    CHECK_WITH_LABELS = "check-with-labels"
    DO_NOT_DEPLOY = "do-not-deploy"


class ReasonCode(StrEnum):
    """Why a verdict was given. `docs/auto.md` explains each."""

    CLEAR_GAIN = "clear-gain"
    CORRELATED_STREAM = "correlated-stream"
    FEW_CLASSES_IN_STREAM = "few-classes-in-stream"
    GAIN_WITHIN_ERROR = "gain-within-error"
    INPUT_MISMATCH = "input-mismatch"
    LABELS_BETTER = "labels-better"
    LABELS_NOT_WORSE = "labels-not-worse"
    LABELS_WORSE = "labels-worse"
    LESS_CERTAIN_PREDICTIONS = "less-certain-predictions"
    NO_GAIN = "no-gain"
    OUTPUTS_NOT_CLASSES = "outputs-not-classes"
    SOURCE_KEPT = "source-kept"
    SOURCE_STATISTICS_UNSET = "source-statistics-unset"
    TOO_FEW_LABELS = "too-few-labels"
    TOO_FEW_SAMPLES = "too-few-samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReason:
    """One reason for a verdict.

    Attributes:
        code: stable code.
        text: one sentence with the numbers.
    """

    code: ReasonCode
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the recalibrated model should be deployed.

    Attributes:
        code: stable code.
        sentence: the verdict as one sentence.
        reasons: the reasons, the most important first; at least one.
        next_steps: what to do next, as imperative sentences.
    """

    code: VerdictCode
    sentence: str
    reasons: tuple[VerdictReason, ...]
    next_steps: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return the plain JSON value, as the report holds it."""
        return json_object(self)
