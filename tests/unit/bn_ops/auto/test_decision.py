"""The rule, one branch at a time, and on measured cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bn_ops.auto.criterion import Scores, gain
from bn_ops.auto.decision import (
    Decision,
    can_look_varied,
    choose,
    judge,
    variety,
    verdict_on_choice,
    worth_a_small_share,
)
from bn_ops.diagnostics.report import Candidate, ReasonCode, VerdictCode

SOURCE, SMALL, EARLY, REPLACE = (
    Candidate.SOURCE,
    Candidate.SMALL,
    Candidate.EARLY,
    Candidate.REPLACE,
)


def scores(
    gain: float = 0.0,
    *,
    error: float = 0.0,
    rise: float = 0.0,
    distinct: float = 5.0,
    classes: int = 10,
    probe: int = 64,
) -> Scores:
    """Return scores with a given gain over `scores()`, its error, and a rise of the entropy."""
    unit = np.log(min(probe, classes))
    signs = np.where(np.arange(probe) % 2 == 0, 1.0, -1.0)
    # ±a has the standard deviation a·√(n/(n-1)), and the mean of it the error a/√(n-1).
    objective = (gain + signs * error * np.sqrt(probe - 1)) * unit
    return Scores(
        objective=objective,
        entropy=1.0 + rise * float(np.log(classes)),
        distinct_classes=distinct,
        classes=classes,
    )


def decided(
    early: Scores,
    replace: Scores,
    small: Scores | None = None,
    *,
    samples: int = 64,
    **options: bool,
) -> Decision:
    probe = early.objective.size
    found = {
        SOURCE: scores(probe=probe, classes=early.classes),
        EARLY: early,
        REPLACE: replace,
    }
    return choose(found if small is None else found | {SMALL: small}, samples=samples, **options)


NONE = scores(distinct=1.0)
NARROW = scores(distinct=1.5)
_LESS_CERTAIN = "less-certain-predictions"


@pytest.mark.parametrize(
    ("early", "replace", "samples", "candidate", "code", "reason"),
    [
        # A moderate gain on a varied stream, from its thresholds on.
        (NONE, scores(0.031), 64, REPLACE, "deploy", "clear-gain"),
        (NONE, scores(0.029), 64, SOURCE, "check-with-labels", "gain-within-error"),
        (NONE, scores(0.05, error=0.024), 64, REPLACE, "deploy", "clear-gain"),
        (NONE, scores(0.05, error=0.026), 64, SOURCE, "check-with-labels", "gain-within-error"),
        (NONE, scores(0.05, rise=0.019), 64, REPLACE, "deploy", "clear-gain"),
        (NONE, scores(0.05, rise=0.021), 64, SOURCE, "check-with-labels", _LESS_CERTAIN),
        # Only a gain below its error shows that nothing is better than the source.
        (NONE, scores(0.02, error=0.019), 64, SOURCE, "check-with-labels", "gain-within-error"),
        (NONE, scores(0.02, error=0.021), 64, SOURCE, "do-not-deploy", "no-gain"),
        (NONE, scores(0.0), 64, SOURCE, "do-not-deploy", "no-gain"),
        (NONE, scores(-0.02), 64, SOURCE, "do-not-deploy", "no-gain"),
        # 1/n bounds the gain from below.
        (NONE, scores(0.06, probe=16), 16, SOURCE, "check-with-labels", "gain-within-error"),
        (NONE, scores(0.07, probe=16), 16, REPLACE, "check-with-labels", "too-few-samples"),
        # A large gain of the early layers on a broad stream outweighs a rise of the entropy.
        (scores(0.21, rise=0.3, distinct=3.31), NONE, 64, EARLY, "deploy", "clear-gain"),
        (
            scores(0.19, rise=0.3, distinct=3.31),
            NONE,
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        (
            scores(0.21, rise=0.3, distinct=3.29),
            NONE,
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        # A clear gain on a stream of several classes, whatever the entropy.
        (NONE, scores(0.13, rise=0.9, distinct=2.81), 64, REPLACE, "deploy", "clear-gain"),
        (NONE, scores(0.11, rise=0.3), 64, SOURCE, "check-with-labels", _LESS_CERTAIN),
        (NONE, scores(0.13, error=0.064), 64, REPLACE, "deploy", "clear-gain"),
        (NONE, scores(0.13, error=0.066), 64, SOURCE, "check-with-labels", "gain-within-error"),
        (NONE, scores(0.13, distinct=2.81, probe=16), 16, REPLACE, "deploy", "clear-gain"),
        (
            NONE,
            scores(0.11, distinct=2.81),
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        (
            NONE,
            scores(0.9, distinct=2.79),
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        # Deployed from 16 samples on.
        (
            NONE,
            scores(0.21, probe=15),
            15,
            REPLACE,
            "check-with-labels",
            "too-few-samples",
        ),
        # A moderate gain of the early layers is taken, and not deployed.
        (scores(0.19), NONE, 64, EARLY, "check-with-labels", "gain-within-error"),
        # The early layers on a stream of few classes.
        (
            scores(0.26, distinct=2.1, rise=0.44),
            NONE,
            64,
            EARLY,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        (
            scores(0.26, distinct=1.9),
            NONE,
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        (
            scores(0.26, distinct=2.1, rise=0.46),
            NONE,
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        (
            scores(0.24, distinct=2.1),
            NONE,
            64,
            SOURCE,
            "check-with-labels",
            "few-classes-in-stream",
        ),
        (
            scores(0.26, distinct=2.1, probe=15),
            NONE,
            15,
            SOURCE,
            "check-with-labels",
            "too-few-samples",
        ),
        (scores(0.26, rise=0.15, distinct=3.69), NONE, 64, EARLY, "deploy", "clear-gain"),
        # Few samples.
        (NONE, scores(0.5, probe=8), 8, REPLACE, "check-with-labels", "too-few-samples"),
        (
            NONE,
            scores(0.5, probe=8, distinct=2.81),
            8,
            REPLACE,
            "check-with-labels",
            "too-few-samples",
        ),
        (NONE, scores(0.5, probe=7), 7, SOURCE, "check-with-labels", "too-few-samples"),
        (NONE, scores(0.0, probe=15), 15, SOURCE, "check-with-labels", "too-few-samples"),
        (NONE, scores(0.1, probe=31), 31, REPLACE, "check-with-labels", "too-few-samples"),
        (NONE, scores(0.1, probe=32), 32, REPLACE, "deploy", "clear-gain"),
    ],
)
def test_rule(  # noqa: PLR0917 - a table
    early: Scores,
    replace: Scores,
    samples: int,
    candidate: Candidate,
    code: str,
    reason: str,
) -> None:
    if early is NONE:
        early = scores(distinct=1.0, probe=replace.objective.size)
    if replace is NONE:
        replace = scores(distinct=1.0, probe=early.objective.size)
    found = decided(early, replace, samples=samples)
    assert found.candidate is candidate
    verdict = verdict_on_choice(found)
    assert (verdict.code, verdict.reasons[0]) == (code, reason)
    assert (ReasonCode.SOURCE_KEPT in verdict.reasons) == (candidate is SOURCE)


def many(gain: float = 0.0, *, error: float = 0.0, rise: float = 0.0) -> Scores:
    """Return scores of a network with many classes, on a stream of few."""
    return scores(gain, error=error, rise=rise, classes=101, distinct=1.5)


@pytest.mark.parametrize(
    ("small", "candidate"),
    [
        (many(0.16), SMALL),
        (many(0.14), SOURCE),
        (many(0.16, error=0.09), SOURCE),
        (many(0.16, rise=0.001), SOURCE),
    ],
)
def test_small_share_and_many_classes(small: Scores, candidate: Candidate) -> None:
    found = decided(many(), many(0.1), small)
    assert found.candidate is candidate
    assert verdict_on_choice(found).code is VerdictCode.CHECK_WITH_LABELS


def test_replace_is_taken_before_early() -> None:
    assert decided(scores(0.9), scores(0.13)).candidate is REPLACE
    assert decided(scores(0.9), scores(0.02)).candidate is EARLY


def test_any_gain_above_its_error_leaves_the_source_in_doubt() -> None:
    larger, smaller = scores(0.02, error=0.03), scores(0.01, error=0.009)
    assert verdict_on_choice(decided(larger, larger)).code == "do-not-deploy"
    for pair in ((larger, smaller), (smaller, larger)):
        found = verdict_on_choice(decided(*pair))
        assert found.reasons == (ReasonCode.GAIN_WITHIN_ERROR, ReasonCode.SOURCE_KEPT)
        assert found.code == "check-with-labels"


def test_clear_gain_of_early_needs_predictions_that_are_as_certain() -> None:
    certain = scores(0.13, rise=0.019, distinct=2.81)
    assert decided(certain, NONE).candidate is EARLY
    assert decided(scores(0.13, rise=0.021, distinct=2.81), NONE).candidate is SOURCE
    # Unlike that of `REPLACE`, it is not deployed.
    assert verdict_on_choice(decided(certain, NONE)).code == "check-with-labels"
    assert verdict_on_choice(decided(NONE, certain)).code == "deploy"


def test_less_certain_predictions_of_score_maps_need_a_large_gain() -> None:
    def chosen(gain: float, positions: int) -> Candidate:
        found = {SOURCE: scores(), EARLY: NONE, REPLACE: scores(gain, rise=0.3)}
        given = {name: replace(one, positions=positions) for name, one in found.items()}
        return choose(given, samples=64).candidate

    assert (chosen(0.19, 1), chosen(0.19, 16), chosen(0.21, 16)) == (REPLACE, SOURCE, REPLACE)


def test_small_share_needs_a_gain_of_a_larger_step() -> None:
    lower, enough, small = many(0.099), many(0.1), many(0.16)
    assert decided(lower, lower, small).candidate is SOURCE
    assert decided(lower, enough, small).candidate is SMALL
    assert decided(enough, lower, small).candidate is SMALL


def test_few_classes_have_no_small_share() -> None:
    enough = {REPLACE: gain(scores(), scores(0.11))}
    maps = replace(scores(), positions=16)
    assert worth_a_small_share(maps, enough)
    assert worth_a_small_share(many(), enough)
    assert not worth_a_small_share(scores(), enough)
    few, small = scores(0.11, distinct=1.5), scores(0.9)
    assert decided(few, few, small).candidate is SOURCE
    given = {SOURCE: scores(), EARLY: few, REPLACE: few, SMALL: small}
    given = {name: replace(found, positions=16) for name, found in given.items()}
    assert choose(given, samples=64).candidate is SMALL


def test_small_share_is_not_compared_with_admitted_candidates() -> None:
    assert decided(NONE, scores(0.1), scores(0.9)).candidate is REPLACE


def test_many_classes_never_take_the_early_layers_on_a_narrow_stream() -> None:
    early = scores(0.5, distinct=20, classes=101)
    assert decided(early, scores(distinct=20, classes=101)).candidate is SOURCE
    early = scores(0.5, distinct=20, classes=100)
    assert decided(early, scores(distinct=20, classes=100)).candidate is EARLY


@pytest.mark.parametrize(("samples", "code"), [(1, "check-with-labels"), (32, "deploy")])
def test_unset_source_statistics_are_replaced(samples: int, code: str) -> None:
    found = decided(NARROW, NARROW, samples=samples, unset=True)
    assert found.candidate is REPLACE
    verdict = verdict_on_choice(found)
    assert verdict.code == code
    assert ReasonCode.SOURCE_STATISTICS_UNSET in verdict.reasons


def test_outputs_without_classes_keep_the_source() -> None:
    found = choose({}, samples=1000)
    assert found.candidate is SOURCE
    verdict = verdict_on_choice(found)
    assert verdict.code is VerdictCode.CHECK_WITH_LABELS
    assert verdict.reasons == (ReasonCode.OUTPUTS_NOT_CLASSES, ReasonCode.SOURCE_KEPT)


def test_candidates_without_finite_outputs_are_left_out() -> None:
    found = choose({SOURCE: scores(), REPLACE: scores(0.5)}, samples=64)
    assert found.candidate is REPLACE
    found = choose({SOURCE: scores()}, samples=64)
    assert found.candidate is SOURCE


@pytest.mark.parametrize(
    ("replace", "samples", "candidate", "code"),
    [
        (scores(0.1, distinct=1.5), 64, REPLACE, "deploy"),
        (scores(0.1, distinct=1.5, rise=0.1), 64, REPLACE, "check-with-labels"),
        (scores(0.0, distinct=1.5), 64, REPLACE, "check-with-labels"),
        (scores(-0.04, distinct=1.5), 64, REPLACE, "check-with-labels"),
        (scores(-0.06, distinct=1.5), 64, SOURCE, "do-not-deploy"),
        (scores(-0.06, error=0.04, distinct=1.5), 64, REPLACE, "check-with-labels"),
        (scores(0.1, distinct=1.5, probe=16), 16, REPLACE, "check-with-labels"),
        (scores(0.0, distinct=1.5, probe=15), 15, SOURCE, "check-with-labels"),
        (scores(0.1, distinct=1.5, probe=15), 15, REPLACE, "check-with-labels"),
        (scores(0.9, distinct=1.5, probe=7), 7, SOURCE, "check-with-labels"),
    ],
)
def test_declared_variety(replace: Scores, samples: int, candidate: Candidate, code: str) -> None:
    early = scores(distinct=1.0, probe=replace.objective.size)
    found = decided(early, replace, samples=samples, varied=True)
    assert found.candidate is candidate
    assert verdict_on_choice(found).code == code


def test_declared_lack_of_variety() -> None:
    assert decided(NONE, scores(0.5), varied=False).candidate is SOURCE
    found = decided(scores(0.5), NONE, varied=False)
    assert found.candidate is EARLY
    assert verdict_on_choice(found).code is VerdictCode.CHECK_WITH_LABELS


@pytest.mark.parametrize(
    ("after", "samples", "code", "reason"),
    [
        (scores(0.031), 64, "deploy", "clear-gain"),
        (scores(0.04), 31, "check-with-labels", "too-few-samples"),
        (scores(0.9, probe=15), 15, "check-with-labels", "too-few-samples"),
        (scores(0.02), 64, "check-with-labels", "gain-within-error"),
        (scores(0.19, rise=0.03), 64, "check-with-labels", "less-certain-predictions"),
        (scores(0.19, distinct=3.6), 64, "check-with-labels", "few-classes-in-stream"),
        (scores(0.21, rise=0.03), 64, "deploy", "clear-gain"),
        (scores(0.21, distinct=2.81), 16, "deploy", "clear-gain"),
        (scores(0.21, distinct=2.79), 64, "check-with-labels", "few-classes-in-stream"),
        (scores(0.21, error=0.11), 64, "check-with-labels", "gain-within-error"),
        (scores(-0.049), 64, "check-with-labels", "gain-within-error"),
        (scores(-0.051), 64, "do-not-deploy", "no-gain"),
        (scores(-0.051, error=0.03), 64, "check-with-labels", "gain-within-error"),
        (scores(-0.9, distinct=1.0), 64, "do-not-deploy", "no-gain"),
    ],
)
def test_judgment_of_own_estimator(after: Scores, samples: int, code: str, reason: str) -> None:
    found = judge(scores(probe=after.objective.size), after, samples=samples)
    assert (found.code, found.reasons[0]) == (code, reason)


@pytest.mark.parametrize(
    ("probe", "classes", "varied", "several", "broad"),
    [
        # 1 + 0.34·s·(K - 1) with s = 1/(1 + (K - 1)/n), at least 0.6; 1 + 0.2·(K - 1), up to 100
        # classes; 1 + 0.255·(K - 1).
        (64, 2, 2.8, 2.8, 3.3),
        (64, 10, 1 + 0.34 * 9 / (1 + 9 / 64), 2.8, 3.3),
        (8, 10, 1 + 0.34 * 0.6 * 9, 2.8, 3.3),
        (64, 100, 1 + 0.34 * 0.6 * 99, 20.8, 26.245),
        (64, 101, 1 + 0.34 * 0.6 * 100, np.inf, 26.5),
        (64, 1000, 1 + 0.34 * 0.6 * 999, np.inf, 255.745),
    ],
)
def test_variety_thresholds(
    probe: int, classes: int, varied: float, several: float, broad: float
) -> None:
    for distinct in (varied, broad, min(several, 1000.0)):
        for factor in (0.999, 1.001):
            found = variety(distinct * factor, probe=probe, classes=classes)
            assert found.varied == (distinct * factor >= varied)
            assert found.several == (distinct * factor >= several)
            assert found.broad == (distinct * factor >= broad)


def by_documentation(
    divergence: NDArray[np.float64], entropy: NDArray[np.float64], *, n: int, k: int, unset: bool
) -> int:
    """Return the candidate that docs/auto.md describes, one number at a time.

    Args:
        divergence: KL(p_i ‖ p̄) of source, small, early and replace, shape (4, probe).
        entropy: H(p_i) of the same.
        n: number of samples of the stream.
        k: number of classes.
        unset: whether every source statistic is mean 0 and variance 1.
    """
    source, small, early, replace = range(4)
    if unset:
        return replace
    if n < 8:
        return source
    probe = len(divergence[source])
    gains, errors, rises = [], [], []
    for name in range(4):
        rise = [
            (divergence[name][i] - divergence[source][i])
            - (entropy[name][i] - entropy[source][i]) / 2
            for i in range(probe)
        ]
        mean, unit = math.fsum(rise) / probe, math.log(min(probe, k))
        variance = math.fsum((x - mean) ** 2 for x in rise) / (probe - 1)
        gains.append(mean / unit)
        errors.append(math.sqrt(variance / probe) / unit)
        rises.append(math.fsum(entropy[name] - entropy[source]) / probe / math.log(k))
    c = max(math.exp(math.fsum(divergence[name]) / probe) for name in (early, replace))
    s = max(0.6, 1 / (1 + (k - 1) / probe))
    varied = c >= max(2.8, 1 + 0.34 * s * (k - 1))
    several = k <= 100 and c >= max(2.8, 1 + 0.2 * (k - 1))
    broad = c >= max(3.3, 1 + 0.255 * (k - 1))

    def admitted(name: int) -> bool:
        certain = rises[name] <= 0.02
        return gains[name] >= 2 * errors[name] and (
            (varied and gains[name] >= max(0.03, 1 / n) and certain)
            or (several and gains[name] >= 0.12 and (certain or name == replace))
            or (broad and gains[name] >= 0.2)
        )

    narrow = k <= 100 and c >= 2 and gains[early] >= max(0.25, 2 * errors[early])
    if admitted(replace):
        return replace
    if n >= 16 and (admitted(early) or (narrow and rises[early] <= 0.45)):
        return early
    clear = k > 100 and gains[small] >= max(0.15, 2 * errors[small]) and rises[small] <= 0
    return small if clear and max(gains[early], gains[replace]) >= 0.1 else source


def test_measured_cases_follow_the_documentation() -> None:
    """Decide 110 measured cases as the page describes.

    The file holds KL(p_i ‖ p̄) and H(p_i) of networks for digits, Fashion-MNIST and ImageNet under
    corruptions and with changed weights, on streams of many and of few classes.
    """
    with np.load(Path(__file__).with_name("measured_cases.npz")) as file:
        cases = {name: file[name] for name in file.files}
    candidates = (SOURCE, SMALL, EARLY, REPLACE)
    seen = set()
    for case, samples in enumerate(cases["samples"].tolist()):
        known = np.isfinite(cases["divergence"][case, 0])
        divergence, entropy = (
            cases[name][case][:, known].astype(np.float64) for name in ("divergence", "entropy")
        )
        classes, unset = int(cases["classes"][case]), bool(cases["unset"][case])
        measured = {
            candidate: Scores(
                objective=divergence[index] - entropy[index] / 2,
                entropy=float(entropy[index].mean()),
                distinct_classes=float(np.exp(divergence[index].mean())),
                classes=classes,
            )
            for index, candidate in enumerate(candidates)
        }
        expected = by_documentation(divergence, entropy, n=samples, k=classes, unset=unset)
        found = choose(measured, samples=samples, unset=unset)
        assert found.candidate is candidates[expected], case
        seen.add(found.candidate)
        if found.candidate is REPLACE:
            # A run does not measure `EARLY` then, which must not change the verdict.
            fewer = {name: measured[name] for name in (SOURCE, REPLACE)}
            alone = choose(fewer, samples=samples, unset=unset)
            assert alone.candidate is REPLACE
            assert verdict_on_choice(alone) == verdict_on_choice(found)
    assert seen == set(candidates)


def test_declaration_needs_a_sample_per_class() -> None:
    # Too small a gain for the rule, and no loss: only a declaration takes `REPLACE`.
    same = scores(0.001, distinct=1.5, classes=40)
    assert decided(same, same, samples=40, varied=True).candidate is REPLACE
    assert decided(same, same, samples=39, varied=True).candidate is SOURCE


def test_early_needs_16_samples_on_a_varied_stream() -> None:
    assert decided(scores(0.5), NONE, samples=16).candidate is EARLY
    assert decided(scores(0.5), NONE, samples=15).candidate is SOURCE


@pytest.mark.parametrize(
    ("classes", "probe", "possible"),
    [(2, 64, False), (3, 64, True), (100, 64, True), (309, 64, True), (310, 64, False)],
)
def test_what_a_probe_can_show(classes: int, probe: int, *, possible: bool) -> None:
    assert can_look_varied(classes, probe=probe) == possible
