"""The rule on rows that were measured after it had been fixed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accuracy.choice.policy import decide
from benchmarks.accuracy.choice.rows import LATER_ROWS, REPLACE, Row, read_rows
from benchmarks.accuracy.choice.summary import FAMILIES, HARM, summarize
from bn_ops.auto.decision import MIN_SAMPLES_TO_DEPLOY
from bn_ops.diagnostics.report import VerdictCode

__all__ = ["later"]

_TEXT = """\
After the rule had been fixed, the third network for digits was measured, which the other rows lack:
{rows} rows of 16 and 64 samples on {domains} domains, with the four candidates of `Auto`.

- `Replace` hurts in {replace_hurt} rows, with a gain of at most {replace_gain:.2f}. `Auto` hurts in
  {hurt}, by at most {loss:.1f} points.
- `deploy` is harmful in {deployed_hurt} of {deployed} rows; the change is {smallest:+.1f} or more.
- {held} of {helpful} choices that help did not get `deploy`; with {many} or more samples,
  {held_many} of {helpful_many}.
- On mixed streams `Auto` is {auto.regret:.1f} points below the best of the four on average and
  {auto.worst_regret:.1f} at worst; `Replace`, {replace.regret:.1f} and
  {replace.worst_regret:.1f}."""


def later(rows: Sequence[Row]) -> str:
    """Render the figures of the later rows; the other rows are not used."""
    del rows
    found = read_rows(LATER_ROWS)
    decided = [(row, decide(row)) for row in found]
    changes = [(row, row.change_of(each.candidate), each.verdict) for row, each in decided]
    deployed = [change for _, change, verdict in changes if verdict is VerdictCode.DEPLOY]
    helpful = [(row, verdict) for row, change, verdict in changes if change > HARM]
    many = [verdict for row, verdict in helpful if row.samples >= MIN_SAMPLES_TO_DEPLOY]
    harmed = [row for row in found if row.change_of(REPLACE) < -HARM]
    mixed = [(row, each) for row, each in decided if FAMILIES["mixed"](row)]
    return _TEXT.format(
        rows=len(found),
        domains=len({row.domain for row in found}),
        replace_hurt=len(harmed),
        replace_gain=max(row.candidates[REPLACE].gain for row in harmed),
        hurt=sum(change < -HARM for _, change, _ in changes),
        loss=-min(change for _, change, _ in changes),
        deployed=len(deployed),
        deployed_hurt=sum(change < -HARM for change in deployed),
        smallest=min(deployed),
        held=sum(verdict is not VerdictCode.DEPLOY for _, verdict in helpful),
        helpful=len(helpful),
        held_many=sum(verdict is not VerdictCode.DEPLOY for verdict in many),
        helpful_many=len(many),
        many=MIN_SAMPLES_TO_DEPLOY,
        auto=summarize([(row, each.candidate) for row, each in mixed]),
        replace=summarize([(row, REPLACE) for row, _ in mixed]),
    )
