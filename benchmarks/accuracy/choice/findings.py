"""Sentences of docs/evidence.md that quote figures of the rows."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accuracy.choice.policy import Decision, decide
from benchmarks.accuracy.choice.rows import REPLACE, SOURCE, Row
from benchmarks.accuracy.choice.summary import (
    FAMILIES,
    HARM,
    development,
    photographs,
    summarize,
    upper_bound,
)
from bn_ops.auto.decision import MIN_SAMPLES_TO_DEPLOY, MIN_SAMPLES_TO_REFUSE
from bn_ops.diagnostics.report import VerdictCode

__all__ = ["limits", "short"]

_SHORT = """\
- **Harm with `deploy`**: {sure_hurt} of {sure} rows lost more than 2 points of accuracy; the
  largest loss is {sure_loss:.1f}. {sure_held_out} of these rows are held out. They come from
  {pairs} pairs of a network and a domain; if one pair counts as one case, {pairs_hurt} of {pairs}
  leaves up to {bound:.1f} % (95 %).
- **The price is caution**: {held_back:.0f} % of the choices that help did not get `deploy`; of
  those with {deploy_samples} or more samples, {held_back_many:.0f} %. On mixed streams of
  {refuse_samples} or more samples, `Auto` is {auto.regret:.1f} points below the best candidate on
  average and {auto.worst_regret:.0f} at worst; `Replace`, {replace.regret:.1f} and
  {replace.worst_regret:.0f}.
- **Harm with any verdict**: {hurt} of {rows:,} rows, by at most {loss:.1f} points. `Replace` hurt
  in {replace_hurt:,}.
- **Photographs**: on ImageNet networks, `Replace` hurt in {pictures_replace_hurt} of {pictures}
  rows; it changes the accuracy by {pictures_change:.0f} points on average. `Auto` keeps the
  source in {pictures_kept}, hurts in {pictures_hurt}, and gives `deploy` in {pictures_sure}.
- **`do-not-deploy` means that the criterion found nothing better.** In {better} of {refused} rows
  another candidate gains more than 2 points. The verdict is a reason to look for labels, not
  proof that the source is best.
- **`varied=True` is worth declaring where it is true**: on the same mixed streams, the mean
  regret is then {declared.regret:.1f} and the worst {declared.worst_regret:.0f} points;
  {declared.harmful} of {mixed} rows are hurt, by at most {declared_loss:.1f}. Where it is false,
  it does harm: see the last table of the results."""

_LIMITS = """\
- **A broken network and a narrow stream look the same**: predictions distinguish few classes in
  both. `Auto` therefore keeps the source where fog or low contrast leaves about 10 % accuracy,
  although `Replace` would gain up to {left:.0f} points on a mixed stream. Only a declaration
  (`varied=True`) or labels decide.
- **Loss at rising certainty**: on `glass_blur`, `early` raises the criterion and the certainty
  and loses accuracy. It is therefore taken only where `replace` is not admitted.
- **`deploy` compares with the source and does not promise accuracy**: in {poor} of {sure} rows
  the accuracy afterwards is below 60 %, at worst {poorest:.0f} %.
- **Inverted digits**: the source is kept in {inverted_kept} of {inverted} rows, but not because
  the inversion is detected.
- **Many classes**: with 1,000 classes and at most 110 samples, no criterion that was tried
  separates help from harm for large shares. A stream with fewer samples than classes cannot hold
  every class, so `varied=True` is ignored there: honoring it gave `deploy` in 31 rows, of which 24
  were hurt. Ignoring it gives `deploy` in {declared} rows, of which {declared_hurt} are hurt.
- **Other outputs**: the rows are classifiers with 10 and 1,000 classes. Score maps, detection,
  regression and embeddings were not measured, and no images other than these."""

_POOR = 60.0  # percent

Decided = Sequence[tuple[Row, Decision]]


def short(rows: Sequence[Row]) -> str:
    """Render the main findings as a list."""
    decided = [(row, decide(row)) for row in rows]
    sure = _with(decided, VerdictCode.DEPLOY)
    refused = _with(decided, VerdictCode.DO_NOT_DEPLOY)
    pictures = [(row, found) for row, found in decided if photographs(row)]
    mixed = [
        (row, found)
        for row, found in decided
        if FAMILIES["mixed"](row) and row.samples >= MIN_SAMPLES_TO_REFUSE
    ]
    pairs = len({_pair(row) for row, _ in sure})
    pairs_hurt = len({_pair(row) for row, found in sure if row.change_of(found.candidate) < -HARM})
    declared = summarize([(row, decide(row, varied=True).candidate) for row, _ in mixed])
    return _SHORT.format(
        sure=len(sure),
        sure_hurt=_hurt(sure),
        sure_loss=_loss(sure),
        sure_held_out=sum(not development(row) for row, _ in sure),
        pairs=pairs,
        pairs_hurt=pairs_hurt,
        bound=100 * upper_bound(pairs_hurt, pairs),
        held_back=_held_back(decided, 1),
        held_back_many=_held_back(decided, MIN_SAMPLES_TO_DEPLOY),
        deploy_samples=MIN_SAMPLES_TO_DEPLOY,
        refuse_samples=MIN_SAMPLES_TO_REFUSE,
        auto=summarize([(row, found.candidate) for row, found in mixed]),
        replace=summarize([(row, REPLACE) for row, _ in mixed]),
        rows=len(rows),
        hurt=_hurt(decided),
        loss=_loss(decided),
        replace_hurt=_replace_hurt(rows),
        pictures=len(pictures),
        pictures_replace_hurt=_replace_hurt([row for row, _ in pictures]),
        pictures_change=sum(row.change_of(REPLACE) for row, _ in pictures) / max(1, len(pictures)),
        pictures_kept=sum(found.candidate == SOURCE for _, found in pictures),
        pictures_hurt=_hurt(pictures),
        pictures_sure=len(_with(pictures, VerdictCode.DEPLOY)),
        refused=len(refused),
        better=sum(row.best - row.accuracy(SOURCE) > HARM for row, _ in refused),
        mixed=len(mixed),
        declared=declared,
        declared_loss=-declared.worst_change,
    )


def limits(rows: Sequence[Row]) -> str:
    """Render what the rule cannot see as a list."""
    decided = [(row, decide(row)) for row in rows]
    sure = _with(decided, VerdictCode.DEPLOY)
    left = [
        row.change_of(REPLACE)
        for row, found in decided
        if FAMILIES["mixed"](row)
        and row.samples >= MIN_SAMPLES_TO_DEPLOY
        and found.candidate == SOURCE
    ]
    inverted = [found for row, found in decided if row.domain == "inverted"]
    declared = _with(
        [(row, decide(row, varied=True)) for row in rows if photographs(row)], VerdictCode.DEPLOY
    )
    after = [row.accuracy(found.candidate) for row, found in sure]
    return _LIMITS.format(
        left=max(left, default=0.0),
        sure=len(sure),
        poor=sum(accuracy < _POOR for accuracy in after),
        poorest=min(after, default=0.0),
        inverted=len(inverted),
        inverted_kept=sum(found.candidate == SOURCE for found in inverted),
        declared=len(declared),
        declared_hurt=_hurt(declared),
    )


def _pair(row: Row) -> tuple[str, str, str]:
    return row.network, row.change, row.domain


def _with(decided: Decided, code: VerdictCode) -> Decided:
    return [(row, found) for row, found in decided if found.verdict is code]


def _hurt(decided: Decided) -> int:
    return sum(row.change_of(found.candidate) < -HARM for row, found in decided)


def _replace_hurt(rows: Sequence[Row]) -> int:
    return sum(row.change_of(REPLACE) < -HARM for row in rows)


def _loss(decided: Decided) -> float:
    """Return the largest loss in points."""
    return max((-row.change_of(found.candidate) for row, found in decided), default=0.0)


def _held_back(decided: Decided, samples: int) -> float:
    """Return the percentage of helpful choices without `deploy`."""
    helpful = [
        found.verdict is not VerdictCode.DEPLOY
        for row, found in decided
        if row.samples >= samples and row.change_of(found.candidate) > HARM
    ]
    return 100 * sum(helpful) / max(1, len(helpful))
