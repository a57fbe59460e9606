"""The rule on rows of networks, and of data, that set none of its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.accuracy.choice.policy import decide
from benchmarks.accuracy.choice.rows import LATER_ROWS, LETTER_ROWS, REPLACE, Row, read_rows
from benchmarks.accuracy.choice.summary import FAMILIES, HARM, markdown, signed, summarize
from bn_ops.auto.decision import MIN_SAMPLES_TO_DEPLOY
from bn_ops.diagnostics.report import VerdictCode

__all__ = ["later", "letters"]

_TEXT = """\
{rows} rows of {sizes} samples. Regret is against the best of source, `early`, `replace` and \
shares of 0.02 and 0.1."""


def later(rows: Sequence[Row]) -> str:
    """Render the figures of the later rows; the other rows are not used."""
    del rows
    return _table(read_rows(LATER_ROWS), "network", lambda row: row.network)


def letters(rows: Sequence[Row]) -> str:
    """Render the figures of the rows of letters; the other rows are not used."""
    del rows
    return _table(read_rows(LETTER_ROWS), "domain", lambda row: row.domain)


def _table(found: Sequence[Row], title: str, part: Callable[[Row], str]) -> str:
    head = [title, "rows", "`Replace` hurts", "`Auto` hurts", "worst change", "`deploy`"]
    head += ["harmful", "worst change", "held back", f"held back, n ≥ {MIN_SAMPLES_TO_DEPLOY}"]
    head += ["mixed: regret of `Auto`", "of `Replace`"]
    names = dict.fromkeys(part(row) for row in found)
    body = [_line(name, [row for row in found if part(row) == name]) for name in names]
    sizes = [str(size) for size in sorted({row.samples for row in found})]
    text = _TEXT.format(rows=len(found), sizes=f"{', '.join(sizes[:-1])} and {sizes[-1]}")
    return f"{text}\n\n{markdown(head, body)}"


def _line(name: str, rows: Sequence[Row]) -> list[str]:
    decided = [(row, decide(row)) for row in rows]
    changes = [(row, row.change_of(each.candidate), each.verdict) for row, each in decided]
    deployed = [change for _, change, verdict in changes if verdict is VerdictCode.DEPLOY]
    helpful = [(row, verdict) for row, change, verdict in changes if change > HARM]
    many = [verdict for row, verdict in helpful if row.samples >= MIN_SAMPLES_TO_DEPLOY]
    mixed = [(row, each) for row, each in decided if FAMILIES["mixed"](row)]
    auto = summarize([(row, each.candidate) for row, each in mixed])
    replaced = summarize([(row, REPLACE) for row, _ in mixed])
    return [
        name,
        str(len(rows)),
        str(sum(row.change_of(REPLACE) < -HARM for row in rows)),
        str(sum(change < -HARM for _, change, _ in changes)),
        signed(min(change for _, change, _ in changes)),
        str(len(deployed)),
        str(sum(change < -HARM for change in deployed)),
        signed(min(deployed)) if deployed else "–",
        _held([verdict for _, verdict in helpful]),
        _held(many),
        f"{auto.regret:.1f} / {auto.worst_regret:.1f}",
        f"{replaced.regret:.1f} / {replaced.worst_regret:.1f}",
    ]


def _held(verdicts: Sequence[VerdictCode]) -> str:
    return f"{sum(v is not VerdictCode.DEPLOY for v in verdicts)} of {len(verdicts)}"
