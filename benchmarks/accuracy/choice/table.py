"""Write the tables of docs/evidence.md from the rows and the rule of `bn_ops.auto`.

`python -m benchmarks.accuracy.choice.table`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.choice.findings import limits, short
from benchmarks.accuracy.choice.front import front, sizes
from benchmarks.accuracy.choice.later import later, letters
from benchmarks.accuracy.choice.policy import Decision, decide, judge_candidate
from benchmarks.accuracy.choice.rows import EARLY, REPLACE, ROWS, SOURCE, Row, read_rows
from benchmarks.accuracy.choice.sensitivity import sensitivity_table
from benchmarks.accuracy.choice.summary import (
    FAMILIES,
    HARM,
    SIZES,
    development,
    markdown,
    photographs,
    signed,
    summarize,
    upper_bound,
)
from bn_ops.auto.decision import MIN_SAMPLES_TO_DEPLOY
from bn_ops.diagnostics.report import VerdictCode

__all__ = ["BLOCKS", "PAGE", "results", "write_tables"]

PAGE = Path(__file__).parents[3] / "docs" / "evidence.md"

_LISTED = 8  # worst cases

_OVERVIEW = (
    "Rows with 8 or more samples. *Helps* and *hurts*: more than 2 points of accuracy above or "
    "below the source."
)
_CELLS = (
    "Each cell: mean regret / worst regret / worst change against the source, in points / "
    "number of rows more than 2 points worse than the source."
)


@dataclass(frozen=True, slots=True)
class _Case:
    """A row and what `Auto` does with it."""

    row: Row
    auto: Decision

    @property
    def change(self) -> float:
        """Accuracy of the choice less that of the source, in points."""
        return self.row.change_of(self.auto.candidate)

    @property
    def moved(self) -> bool:
        return self.auto.candidate != SOURCE


Cases = Sequence[_Case]

_JUDGED = (REPLACE, "half-0.5", "share-0.5", EARLY, "share-0.1")
_JUDGED_TEXT = (
    "What the verdict says when the candidate is given instead of chosen, all rows. `share-1` is "
    "`Replace`. `Shrink`, whose shares differ by channel, was not measured."
)


def results(rows: Sequence[Row]) -> str:
    """Render every table except the one of thresholds."""
    cases = [_Case(row, decide(row)) for row in rows]
    parts = {
        "Development": [case for case in cases if development(case.row)],
        "Held out": [case for case in cases if not development(case.row)],
    }
    sections = [
        "### When does recalibration help, and what does the verdict say?",
        _OVERVIEW,
        _overview([case for case in cases if case.row.samples >= 8]),
        "### The verdict",
        _verdicts(parts),
    ]
    for name, part in parts.items():
        sections += [
            f"### Regret and harm: {name.lower()}",
            _CELLS,
            _regrets(part),
        ]
    sections += [
        "### The verdict on the user's own estimator",
        _JUDGED_TEXT,
        _judged(rows),
        "### The worst cases of `Auto`",
        _harm([case for case in cases if case.moved]),
        "### The largest gains that `Auto` left",
        "Mixed streams of 32 or more samples; the worst draw of a network on a domain.",
        _left([c for c in cases if FAMILIES["mixed"](c.row) and c.row.samples >= 32]),
        "### `varied=True` where the stream is not varied",
        _declared_wrongly(rows),
    ]
    return "\n\n".join(sections)


def _overview(cases: Cases) -> str:
    head = ["stream", "rows", "`Replace` helps", "hurts", "`Auto` moves", "helps", "hurts"]
    head += [f"`{code}`" for code in VerdictCode]
    return markdown(head, _overview_lines(cases))


def _overview_lines(cases: Cases) -> Iterator[list[str]]:
    for family, belongs in FAMILIES.items():
        found = [case for case in cases if belongs(case.row)]
        if not found:
            continue
        replaced = [case.row.change_of(REPLACE) for case in found]
        counts = [
            len(found),
            sum(change > HARM for change in replaced),
            sum(change < -HARM for change in replaced),
            sum(case.moved for case in found),
            sum(case.change > HARM for case in found),
            sum(case.change < -HARM for case in found),
            *(sum(case.auto.verdict is code for case in found) for code in VerdictCode),
        ]
        yield [family, *(f"{count:,}" for count in counts)]


def _verdicts(parts: Mapping[str, Cases]) -> str:
    head = [
        "rows",
        "`deploy`",
        "harmful",
        "95 % interval of the rate",
        "held back",
        "held back, n ≥ 32",
        "`do-not-deploy`",
        "another candidate helps",
        "by at most",
    ]
    every = [case for part in parts.values() for case in part]
    lines = {**parts, "all": every} | {
        f"all, {family}": [case for case in every if belongs(case.row)]
        for family, belongs in FAMILIES.items()
    }
    return markdown(head, [_verdict_line(name, part) for name, part in lines.items() if part])


def _verdict_line(name: str, cases: Cases) -> list[str]:
    deployed = [case for case in cases if case.auto.verdict is VerdictCode.DEPLOY]
    harmful = sum(case.change < -HARM for case in deployed)
    helpful = [case for case in cases if case.change > HARM]
    refused = [case for case in cases if case.auto.verdict is VerdictCode.DO_NOT_DEPLOY]
    missed = [case.row.best - case.row.accuracy(SOURCE) for case in refused]
    bound = f"0 to {100 * upper_bound(harmful, len(deployed)):.1f} %" if deployed else "–"
    if harmful:
        low = 1 - upper_bound(len(deployed) - harmful, len(deployed))
        bound = f"{100 * low:.1f} to {100 * upper_bound(harmful, len(deployed)):.1f} %"
    return [
        name,
        str(len(deployed)),
        str(harmful) if deployed else "–",
        bound,
        _held_back(helpful),
        _held_back([case for case in helpful if case.row.samples >= MIN_SAMPLES_TO_DEPLOY]),
        str(len(refused)),
        str(sum(gain > HARM for gain in missed)) if refused else "–",
        f"{max(missed):.1f}" if refused else "–",
    ]


def _held_back(helpful: Cases) -> str:
    """Return how many helpful choices did not get `deploy`."""
    held = sum(case.auto.verdict is not VerdictCode.DEPLOY for case in helpful)
    return f"{held} of {len(helpful)} ({100 * held / len(helpful):.0f} %)" if helpful else "–"


def _regrets(cases: Cases) -> str:
    head = ["stream", "n", "rows", "source", "`Replace`", "`Auto`", "`Auto(varied=True)`"]
    body = []
    for family, belongs in FAMILIES.items():
        for label, least, most in SIZES:
            found = [
                case for case in cases if belongs(case.row) and least <= case.row.samples <= most
            ]
            if found:
                rows = [case.row for case in found]
                body.append(
                    [
                        family,
                        label,
                        str(len(found)),
                        str(summarize([(row, SOURCE) for row in rows])),
                        str(summarize([(row, REPLACE) for row in rows])),
                        str(summarize([(case.row, case.auto.candidate) for case in found])),
                        _varied(rows),
                    ]
                )
    return markdown(head, body)


def _varied(rows: Sequence[Row]) -> str:
    """Return the figures of the declaration, where it is true."""
    if any(row.stream != "mixed" or photographs(row) for row in rows):
        return "–"
    return str(summarize([(row, decide(row, varied=True).candidate) for row in rows]))


def _harm(cases: Cases) -> str:
    head = ["network", "domain", "stream", "n", "choice", "source", "change", "verdict"]
    worst = sorted(cases, key=lambda case: (case.change, case.row.network))[:_LISTED]
    return markdown(head, [_described(case, signed(case.change)) for case in worst])


def _left(cases: Cases) -> str:
    head = ["network", "domain", "stream", "n", "choice", "source", "best candidate"]
    head += ["verdict"]
    by_domain: dict[tuple[str, str, str], _Case] = {}
    for case in sorted(cases, key=lambda c: c.row.accuracy(c.auto.candidate) - c.row.best):
        by_domain.setdefault((case.row.network, case.row.domain, case.row.change), case)
    body = []
    for case in list(by_domain.values())[:_LISTED]:
        gain = case.row.best - case.row.accuracy(SOURCE)
        body.append(_described(case, signed(gain)))
    return markdown(head, body)


def _described(case: _Case, figure: str) -> list[str]:
    row = case.row
    return [
        row.network,
        f"{row.domain}, {row.change}" if row.change else row.domain,
        row.stream,
        str(row.samples),
        case.auto.candidate,
        f"{row.accuracy(SOURCE):.1f} %",
        figure,
        f"`{case.auto.verdict}`",
    ]


def _judged(rows: Sequence[Row]) -> str:
    """Render verdicts by what the candidate does, without `Auto`."""
    head = ["candidate", *(f"`{code}`: helps / little / hurts" for code in VerdictCode)]
    head.append("worst change with `deploy`")
    body = []
    for name in _JUDGED:
        changes: dict[VerdictCode, list[float]] = {code: [] for code in VerdictCode}
        for row in rows:
            changes[judge_candidate(row, name)].append(row.change_of(name))
        deployed = changes[VerdictCode.DEPLOY]
        body.append(
            [
                name,
                *(_three(found) for found in changes.values()),
                signed(min(deployed)) if deployed else "–",
            ]
        )
    return markdown(head, body)


def _three(changes: Sequence[float]) -> str:
    helps, hurts = sum(c > HARM for c in changes), sum(c < -HARM for c in changes)
    return f"{helps:,} / {len(changes) - helps - hurts:,} / {hurts:,}"


def _declared_wrongly(rows: Sequence[Row]) -> str:
    """Render what happens to rows whose stream does not hold all classes."""
    body = []
    for family, belongs in FAMILIES.items():
        found = [row for row in rows if belongs(row) and row.samples >= 8]
        if not found or "mixed" in family:
            continue
        decided = [(row, decide(row, varied=True)) for row in found]
        figures = summarize([(row, each.candidate) for row, each in decided])
        deployed = [(r, d) for r, d in decided if d.verdict is VerdictCode.DEPLOY]
        harmful = sum(row.change_of(each.candidate) < -HARM for row, each in deployed)
        body.append(
            [
                family,
                str(len(found)),
                str(figures.harmful),
                signed(figures.worst_change),
                str(len(deployed)),
                str(harmful),
            ]
        )
    return markdown(["stream", "rows", "hurts", "worst change", "`deploy`", "of them hurt"], body)


BLOCKS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "choice-short": short,
    "choice": results,
    "choice-later": later,
    "choice-letters": letters,
    "choice-front": front,
    "choice-sizes": sizes,
    "choice-limits": limits,
    "choice-thresholds": sensitivity_table,
}
"""Generated parts of the page by the name of their markers."""


def write_tables(rows: Sequence[Row], page: Path = PAGE) -> Path:
    """Write every generated part between its markers."""
    text = page.read_text(encoding="utf-8")
    for name, render in BLOCKS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{render(rows)}\n\n{end}{rest.split(end)[1]}"
    page.write_text(text, encoding="utf-8")
    return page


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=Path, default=ROWS, help="rows of benchmarks.accuracy.choice"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    print(write_tables(read_rows(options.rows), options.page))


if __name__ == "__main__":
    main()
