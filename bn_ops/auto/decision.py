"""The rule: which candidate to take, and what to say about a result.

The rule has no parameters for the caller; its thresholds were chosen on 3,430 measured cases, which
`docs/auto.md` describes with the measured rates.

A stream of few classes looks to the criterion like a network that is broken by a domain shift: in
both cases predictions distinguish few classes. Statistics of such a stream raise the criterion and
lower the accuracy on other classes. So a moderate gain counts only on a stream that is seen to be
*varied*, that is, whose predictions distinguish a fair share of the K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bn_ops.auto.criterion import Gain, Scores, gain
from bn_ops.diagnostics.report import Candidate, ReasonCode, VerdictCode

__all__ = [
    "MIN_SAMPLES",
    "MIN_SAMPLES_TO_DEPLOY",
    "MIN_SAMPLES_TO_REFUSE",
    "Decision",
    "Judgment",
    "Variety",
    "can_look_varied",
    "choose",
    "judge",
    "variety",
    "verdict_on_choice",
    "worth_a_small_share",
]

# Fewer samples never move the statistics, never give `do-not-deploy` and `deploy` for a large gain,
# never give `deploy` for another gain.
MIN_SAMPLES = 8
MIN_SAMPLES_TO_REFUSE = 16
MIN_SAMPLES_TO_DEPLOY = 32

# A gain counts only if it exceeds this many of its paired standard errors.
_ERRORS = 2.0

# Varied: at least this many distinct classes, and 1 plus this share of the other K - 1, lowered by
# the share of classes that the probe can show at all, but by no more than the floor: else a network
# of many classes would look varied merely because the probe is small.
_VARIED_CLASSES = 2.8
_VARIED_SHARE = 0.34
_VARIED_FLOOR = 0.6

# Several: enough to count a clear gain. Broad: a larger number. Neither is lowered by the size of
# the probe.
_SEVERAL_CLASSES = 2.8
_SEVERAL_SHARE = 0.20
_BROAD_CLASSES = 3.3
_BROAD_SHARE = 0.255

# A varied stream: least gain, also at least 1/n since statistics of n samples cost accuracy of that
# order; and the rise of entropy that still counts as equally certain.
_MODERATE_GAIN = 0.03
_EQUAL_ENTROPY = 0.02

# A stream of several classes: a gain of `REPLACE`, or one of `EARLY` without a rise of entropy. A
# broad one: a gain that outweighs less certain predictions. From 16 samples on, no `REPLACE` was
# harmful that had the first gain on a stream of several classes; on narrower ones, gains up to 0.17
# did harm.
_CLEAR_GAIN = 0.12
_LARGE_GAIN = 0.20

# Networks with more classes have no gain that counts on a stream of few classes: on photographs and
# 1,000 classes, large gains go with losses.
_FEW_CLASSES_LIMIT = 100

# `EARLY`, from this many samples on: it changes the style that a network expects, hardly the
# classes, so that it may also count on a stream of few classes.
_EARLY_MIN_SAMPLES = 16
_EARLY_DISTINCT = 2.0
_EARLY_GAIN = 0.25
_EARLY_ENTROPY = 0.45

# `SMALL`, for networks of many classes and score maps, where neither other one is admitted. Even a
# share of 0.02 does harm there, except at a large gain without a rise of the entropy. Networks of
# few classes have no small step: one of 21 with a share of 0.1 lost 2.4 points.
_SMALL_GAIN = 0.15
_SMALL_LARGER_GAIN = 0.1

# A gain of one error on a varied stream leaves open whether recalibration would help.
_OPEN_ERRORS = 1.0

# A loss beyond this, and beyond its error, rules statistics out: `REPLACE` where the caller
# declares a varied stream, and the result of the caller's own estimator.
_CLEAR_LOSS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Variety:
    """How many of the K classes a stream is seen to hold.

    Attributes:
        distinct_classes: number of classes that predictions distinguish, the largest of the
            compared candidates.
        varied: whether that is enough for a moderate gain to count.
        several: whether that is enough for a clear gain to count.
        broad: whether that is enough for a large gain to count although predictions are less
            certain.
        declared: whether the caller declared it.
    """

    distinct_classes: float
    varied: bool
    several: bool
    broad: bool
    declared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A candidate, and the evidence for it.

    Attributes:
        candidate: the candidate to take.
        gains: each compared candidate against the source.
        distinct: the number of classes that the predictions of each of them distinguish.
        variety: None where no output holds classes.
        samples: number of samples n of the stream.
        unset: whether the source statistics are the initial ones.
    """

    candidate: Candidate
    gains: Mapping[Candidate, Gain]
    distinct: Mapping[Candidate, float]
    variety: Variety | None
    samples: int
    unset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """A verdict as codes; `bn_ops.auto.verdict` puts it into words.

    Attributes:
        code: the verdict.
        reasons: at least one, the most important first.
    """

    code: VerdictCode
    reasons: tuple[ReasonCode, ...]


def variety(
    distinct_classes: float, *, probe: int, classes: int, varied: bool | None = None
) -> Variety:
    """Compare the number of classes that predictions distinguish with K.

    Args:
        distinct_classes: number of classes that predictions distinguish.
        probe: number of samples that they were measured on.
        classes: K.
        varied: what the caller declares, which then holds; None to decide by the numbers.
    """
    if varied is not None:
        return Variety(
            distinct_classes=distinct_classes,
            varied=varied,
            several=varied,
            broad=varied,
            declared=True,
        )
    others = classes - 1
    # The inverse Simpson index of n balanced draws from K classes, over K, is about this.
    shown = max(_VARIED_FLOOR, 1 / (1 + others / probe))
    return Variety(
        distinct_classes=distinct_classes,
        varied=distinct_classes >= max(_VARIED_CLASSES, 1 + _VARIED_SHARE * shown * others),
        several=classes <= _FEW_CLASSES_LIMIT
        and distinct_classes >= max(_SEVERAL_CLASSES, 1 + _SEVERAL_SHARE * others),
        broad=distinct_classes >= max(_BROAD_CLASSES, 1 + _BROAD_SHARE * others),
    )


def can_look_varied(classes: int, *, probe: int) -> bool:
    """Return whether some predictions on the probe would show a varied or a broad stream.

    If not, the verdict is never `deploy` without labels or a declaration. With 64 samples, that is
    the case for two classes, and from 310 on.
    """
    best = variety(min(probe, classes), probe=probe, classes=classes)
    return best.varied or best.several


def choose(
    scores: Mapping[Candidate, Scores],
    *,
    samples: int,
    unset: bool = False,
    varied: bool | None = None,
) -> Decision:
    """Choose a candidate by the scores of their predictions on the same probe.

    Args:
        scores: the score of `SOURCE`, and of the candidates that could be measured: `REPLACE`,
            and where it is not admitted `EARLY`, and `SMALL` if it is to be considered. Empty where
            no output holds classes.
        samples: number of samples n of the whole stream.
        unset: whether every layer's source statistics are exactly mean 0 and variance 1, as a
            framework initializes them.
        varied: whether the stream holds all classes as they occur in use, declared by the caller;
            None to decide by the predictions. A declaration is ignored if the stream has fewer
            samples than the network has classes, since it cannot be true then: on photographs and
            1,000 classes, 24 of 31 networks deployed on such a declaration were harmed.
    """
    source = scores.get(Candidate.SOURCE)
    if varied and source is not None and samples < source.classes:
        varied = None
    gains = (
        {}
        if source is None
        else {name: gain(source, found) for name, found in scores.items() if found is not source}
    )
    seen = _seen(scores, varied=varied)

    def decided(candidate: Candidate) -> Decision:
        return Decision(
            candidate=candidate,
            gains=gains,
            distinct={name: scores[name].distinct_classes for name in gains},
            variety=seen,
            samples=samples,
            unset=unset,
        )

    if unset:
        return decided(Candidate.REPLACE)
    if samples < MIN_SAMPLES or source is None or seen is None:
        return decided(Candidate.SOURCE)
    if varied and samples >= MIN_SAMPLES_TO_REFUSE:
        return decided(_declared(gains.get(Candidate.REPLACE)))
    return decided(_first(gains, seen, samples, source))


def _first(
    gains: Mapping[Candidate, Gain], seen: Variety, samples: int, source: Scores
) -> Candidate:
    """Return the first candidate that is admitted.

    `REPLACE` comes before `EARLY` even if its gain is smaller: new statistics in the early layers
    alone can raise the certainty more, and the accuracy less.
    """
    replace, early, small = (
        gains.get(name) for name in (Candidate.REPLACE, Candidate.EARLY, Candidate.SMALL)
    )
    if replace is not None and _replace(replace, seen, samples, positions=source.positions):
        return Candidate.REPLACE
    if early is not None and _early(early, seen, samples, source.classes):
        return Candidate.EARLY
    if small is not None and worth_a_small_share(source, gains) and _small(small):
        return Candidate.SMALL
    return Candidate.SOURCE


def worth_a_small_share(source: Scores, gains: Mapping[Candidate, Gain]) -> bool:
    """Return whether `SMALL` can be admitted, by the gains of the larger steps.

    In all 25 measured cases in which a share of 0.02 gained enough, a larger step gained 0.11 or
    more. Elsewhere the small one is not measured, which saves a pass.
    """
    if source.classes <= _FEW_CLASSES_LIMIT and source.positions == 1:
        return False
    larger = (gains[name].value for name in (Candidate.EARLY, Candidate.REPLACE) if name in gains)
    return max(larger, default=0.0) >= _SMALL_LARGER_GAIN


def _seen(scores: Mapping[Candidate, Scores], *, varied: bool | None) -> Variety | None:
    found = [scores[name] for name in (Candidate.EARLY, Candidate.REPLACE) if name in scores]
    if not found:
        return None
    return variety(
        max(one.distinct_classes for one in found),
        probe=found[0].objective.size,
        classes=found[0].classes,
        varied=varied,
    )


def _declared(replace: Gain | None) -> Candidate:
    """Return the candidate for a stream that the caller declares varied."""
    if replace is None or _worse(replace):
        return Candidate.SOURCE
    return Candidate.REPLACE


def _worse(found: Gain) -> bool:
    return found.value < -max(_CLEAR_LOSS, _ERRORS * found.error)


def _convincing(found: Gain, seen: Variety, samples: int) -> bool:
    """Return whether a gain is large enough to take a candidate on a stream of many classes."""
    moderate = max(_MODERATE_GAIN, 1 / samples)
    return found.value >= _ERRORS * found.error and (
        (seen.varied and found.value >= moderate and found.entropy_rise <= _EQUAL_ENTROPY)
        or (seen.several and found.value >= _CLEAR_GAIN and found.entropy_rise <= _EQUAL_ENTROPY)
        or (seen.broad and found.value >= _LARGE_GAIN)
    )


def _clear(found: Gain, seen: Variety) -> bool:
    """Return whether a gain of `REPLACE` is clear, whatever the rise of the entropy."""
    return (
        seen.several
        and not seen.declared
        and found.value >= max(_CLEAR_GAIN, _ERRORS * found.error)
    )


def _replace(found: Gain, seen: Variety, samples: int, *, positions: int) -> bool:
    """Return whether a gain is large enough to take `REPLACE`."""
    clear = positions == 1 and _clear(found, seen)
    return clear or _convincing(found, seen, samples)


def _early(found: Gain, seen: Variety, samples: int, classes: int) -> bool:
    """Return whether a gain is large enough to take `EARLY`."""
    if samples < _EARLY_MIN_SAMPLES:
        return False
    if _convincing(found, seen, samples):
        return True
    return (
        classes <= _FEW_CLASSES_LIMIT
        and seen.distinct_classes >= _EARLY_DISTINCT
        and found.value >= max(_EARLY_GAIN, _ERRORS * found.error)
        and found.entropy_rise <= _EARLY_ENTROPY
    )


def _small(found: Gain) -> bool:
    """Return whether a gain is large enough to take `SMALL`."""
    return found.value >= max(_SMALL_GAIN, _ERRORS * found.error) and found.entropy_rise <= 0


def verdict_on_choice(decision: Decision) -> Judgment:
    """Judge the candidate that `choose` decided for."""
    if decision.unset:
        return _unset(decision.samples)
    kept = (ReasonCode.SOURCE_KEPT,) if decision.candidate is Candidate.SOURCE else ()
    if decision.samples < (MIN_SAMPLES_TO_REFUSE if decision.variety else MIN_SAMPLES) and kept:
        return _check(ReasonCode.TOO_FEW_SAMPLES, *kept)
    seen = decision.variety
    if seen is None:
        return _check(ReasonCode.OUTPUTS_NOT_CLASSES, *kept)
    if kept:
        return _kept(decision.gains, seen)
    found = decision.gains[decision.candidate]
    if (
        decision.candidate is Candidate.REPLACE
        and decision.samples >= MIN_SAMPLES_TO_REFUSE
        and _clear(found, seen)
    ):
        return _judgment(VerdictCode.DEPLOY, ReasonCode.CLEAR_GAIN)
    return _moved(decision.candidate, found, seen, decision.samples)


def _kept(gains: Mapping[Candidate, Gain], seen: Variety) -> Judgment:
    """Judge the source statistics."""
    if not seen.varied:
        return _check(ReasonCode.FEW_CLASSES_IN_STREAM, ReasonCode.SOURCE_KEPT)
    rising = [
        found
        for found in gains.values()
        if found.value > 0 and found.value >= _OPEN_ERRORS * found.error
    ]
    if rising:
        best = max(rising, key=lambda found: found.value)
        return _check(_doubt(best), ReasonCode.SOURCE_KEPT)
    return _judgment(VerdictCode.DO_NOT_DEPLOY, ReasonCode.NO_GAIN, ReasonCode.SOURCE_KEPT)


def _unset(samples: int) -> Judgment:
    """Judge statistics that replace initial ones: nothing can be worse than those."""
    if samples < MIN_SAMPLES_TO_DEPLOY:
        return _check(ReasonCode.TOO_FEW_SAMPLES, ReasonCode.SOURCE_STATISTICS_UNSET)
    return _judgment(VerdictCode.DEPLOY, ReasonCode.SOURCE_STATISTICS_UNSET)


def _moved(candidate: Candidate, found: Gain, seen: Variety, samples: int) -> Judgment:
    """Judge statistics that are not the source's."""
    if candidate is not Candidate.SMALL and _large(found, seen, samples):
        return _judgment(VerdictCode.DEPLOY, ReasonCode.CLEAR_GAIN)
    few = () if seen.varied else (ReasonCode.FEW_CLASSES_IN_STREAM,)
    if samples < MIN_SAMPLES_TO_REFUSE:
        return _check(ReasonCode.TOO_FEW_SAMPLES, *few)
    if few:
        return _check(*few)
    # Of 16 moderate gains of `EARLY` on streams this varied, one lost 2.3 points.
    if candidate is not Candidate.REPLACE or not _convincing(found, seen, samples):
        return _check(_doubt(found))
    if samples < MIN_SAMPLES_TO_DEPLOY:
        return _check(ReasonCode.TOO_FEW_SAMPLES)
    return _judgment(VerdictCode.DEPLOY, ReasonCode.CLEAR_GAIN)


def _large(found: Gain, seen: Variety, samples: int) -> bool:
    """Return whether a gain is beyond all that were measured of harmful statistics."""
    return (
        seen.several
        and samples >= MIN_SAMPLES_TO_REFUSE
        and found.value >= max(_LARGE_GAIN, _ERRORS * found.error)
    )


def judge(before: Scores, after: Scores, *, samples: int) -> Judgment:
    """Judge the statistics of the caller's own estimator.

    Args:
        before: the score of the source on the probe.
        after: the score of the result on the same samples.
        samples: number of samples n of the whole stream.
    """
    found = gain(before, after)
    seen = variety(after.distinct_classes, probe=after.objective.size, classes=after.classes)
    if samples < MIN_SAMPLES_TO_REFUSE:
        return _check(ReasonCode.TOO_FEW_SAMPLES)
    if _worse(found):
        return _judgment(VerdictCode.DO_NOT_DEPLOY, ReasonCode.NO_GAIN)
    return _moved(Candidate.REPLACE, found, seen, samples)


def _doubt(found: Gain) -> ReasonCode:
    if found.entropy_rise > _EQUAL_ENTROPY:
        return ReasonCode.LESS_CERTAIN_PREDICTIONS
    return ReasonCode.GAIN_WITHIN_ERROR


def _check(*reasons: ReasonCode) -> Judgment:
    return _judgment(VerdictCode.CHECK_WITH_LABELS, *reasons)


def _judgment(code: VerdictCode, *reasons: ReasonCode) -> Judgment:
    return Judgment(code=code, reasons=reasons)
