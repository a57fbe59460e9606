"""Apply the rule of `bn_ops.auto` to rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.accuracy.choice.rows import EARLY, REPLACE, SMALL, SOURCE, Measured, Row
from bn_ops.auto.criterion import Scores
from bn_ops.auto.decision import choose, judge, verdict_on_choice
from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.report import Candidate, VerdictCode

__all__ = ["Decision", "decide", "judge_candidate", "scores_of"]

_NAMES = {
    Candidate.SOURCE: SOURCE,
    Candidate.SMALL: SMALL,
    Candidate.EARLY: EARLY,
    Candidate.REPLACE: REPLACE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What `Auto` does with the stream of a row.

    Attributes:
        candidate: name of the candidate in the rows.
        verdict: the verdict on it.
    """

    candidate: str
    verdict: VerdictCode


def decide(
    row: Row, *, varied: bool | None = None, scores: Mapping[Candidate, Scores] | None = None
) -> Decision:
    """Return what `Auto(varied=varied)` does with the stream of a row.

    Args:
        row: the row.
        varied: as for `Auto`.
        scores: `scores_of(row)`, where it is known.
    """
    decision = choose(
        scores_of(row) if scores is None else scores,
        samples=row.samples,
        unset=row.change == "reset",
        varied=varied,
    )
    return Decision(candidate=_NAMES[decision.candidate], verdict=verdict_on_choice(decision).code)


def scores_of(row: Row) -> Mapping[Candidate, Scores]:
    """Return the scores of the candidates of `Auto`."""
    return {name: _scores(row, row.candidates[key]) for name, key in _NAMES.items()}


def judge_candidate(row: Row, candidate: str) -> VerdictCode:
    """Return the verdict on a candidate that the user, not `Auto`, takes."""
    before, after = (_scores(row, row.candidates[name]) for name in (SOURCE, candidate))
    return judge(before, after, samples=row.samples).code


def _scores(row: Row, found: Measured) -> Scores:
    """Return scores whose gain over the source is that of the row.

    A row holds the mean and the standard error of the differences, not the differences. These have
    the same mean and standard error.
    """
    unit = math.log(max(2, min(row.probe, row.classes)))
    spread = 0.0 if row.probe == 1 else found.gain_error * math.sqrt(row.probe)
    return Scores(
        objective=unit * (found.gain + spread * _standard(row.probe)),
        entropy=found.entropy_rise * math.log(row.classes),
        distinct_classes=found.distinct_classes,
        classes=row.classes,
    )


@cache
def _standard(count: int) -> Float64Array:
    """Return numbers of mean 0 and, for two or more, sample standard deviation 1."""
    if count == 1:
        return np.zeros(1)
    values = np.linspace(-1, 1, count)
    return np.asarray(values / values.std(ddof=1))
