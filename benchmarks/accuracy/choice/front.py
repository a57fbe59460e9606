"""What a rule without labels can reach: harm against regret, and two streams that look the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

from benchmarks.accuracy.choice.policy import decide
from benchmarks.accuracy.choice.rows import EARLY, REPLACE, SOURCE, Row
from benchmarks.accuracy.choice.summary import (
    FAMILIES,
    HARM,
    SIZES,
    development,
    markdown,
    photographs,
    signed,
    summarize,
)
from bn_ops.diagnostics.report import VerdictCode

__all__ = ["front", "sizes"]

_THRESHOLDS = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3)

_TEXT = """\
Digits and Fashion-MNIST with 8 or more samples, all kinds of streams and weights; statistics that \
were never set are left out. Each cell: mean / worst regret on mixed streams, rows hurt, worst \
change. The best of the candidates of `Auto` needs labels: no rule that chooses among them can be \
better."""

_PAIR = """\
Two streams that look the same and need opposite decisions, among pairs of one network: the pair \
with the largest smaller effect, where the gains of `early` and `replace` differ by less than one \
of their standard errors, the entropy rises by less than {rise:g}, and the distinct classes by \
less than {distinct:g}."""

_MAX_RISE = 0.06
_MAX_DISTINCT = 0.5

Policy = Callable[[Row], str]


def front(rows: Sequence[Row]) -> str:
    """Render the table of policies, and the pair of streams."""
    used = [
        row for row in rows if row.samples >= 8 and not photographs(row) and row.change != "reset"
    ]
    parts = [[row for row in used if development(row) == first] for first in (True, False)]
    body = [[name, *(_figures(part, policy) for part in parts)] for name, policy in _policies()]
    return "\n\n".join(
        [
            _TEXT,
            markdown(["policy", "development", "held out"], body),
            _PAIR.format(rise=_MAX_RISE, distinct=_MAX_DISTINCT),
            _pair(used),
        ]
    )


def _policies() -> Iterator[tuple[str, Policy]]:
    yield "`Replace`", lambda _: REPLACE
    for threshold in _THRESHOLDS:
        yield f"`Replace` with a gain of at least {threshold:g}, else source", _above(threshold)
    for share in ("share-0.05", "share-0.1", "share-0.2"):
        name = f"`Auto`, with a {share.replace('-', ' of ')} instead of the source"
        yield name, partial(_undecided, step=partial(_always, share=share))
        yield (
            f"{name}, where its gain is at least its error",
            partial(_undecided, step=partial(_if_gained, share=share)),
        )
    yield "`Auto`", lambda row: decide(row).candidate
    yield (
        "best of source, `early` and `replace`",
        lambda row: max((SOURCE, EARLY, REPLACE), key=row.accuracy),
    )


def _undecided(row: Row, step: Policy) -> str:
    """Return the choice of `Auto`, and a small step where it keeps the source."""
    chosen = decide(row).candidate
    return chosen if chosen in {EARLY, REPLACE} else step(row)


def _always(_: Row, share: str) -> str:
    return share


def _if_gained(row: Row, share: str) -> str:
    found = row.candidates[share]
    return share if found.gain >= found.gain_error else SOURCE


def _above(threshold: float) -> Policy:
    return lambda row: REPLACE if row.candidates[REPLACE].gain >= threshold else SOURCE


def _figures(rows: Sequence[Row], policy: Policy) -> str:
    chosen = [(row, policy(row)) for row in rows]
    every = summarize(chosen)
    mixed = summarize([(row, name) for row, name in chosen if FAMILIES["mixed"](row)])
    return (
        f"{mixed.regret:.1f} / {mixed.worst_regret:.1f}; {every.harmful} hurt; "
        f"{signed(every.worst_change)}"
    )


def _pair(rows: Sequence[Row]) -> str:
    hurt = [row for row in rows if max(map(row.change_of, (EARLY, REPLACE))) < 0]
    helped = [
        row
        for row in rows
        if FAMILIES["mixed"](row) and min(map(row.change_of, (EARLY, REPLACE))) > 0
    ]
    pairs = [
        (left, right)
        for left, right in product(hurt, helped)
        if left.network == right.network and left.samples == right.samples and _alike(left, right)
    ]
    if not pairs:
        return "There is no such pair."
    found = max(pairs, key=lambda pair: min(-_effect(pair[0], max), _effect(pair[1], min)))
    head = ["network, domain", "stream", "n", "candidate", "gain", "entropy rise"]
    head += ["distinct classes", "change"]
    return markdown(head, [_line(row, name) for row in found for name in (EARLY, REPLACE)])


def _effect(row: Row, pick: Callable[[float, float], float]) -> float:
    return pick(row.change_of(EARLY), row.change_of(REPLACE))


def _alike(left: Row, right: Row) -> bool:
    for name in (EARLY, REPLACE):
        one, other = left.candidates[name], right.candidates[name]
        if abs(one.gain - other.gain) >= math.hypot(one.gain_error, other.gain_error):
            return False
        if abs(one.entropy_rise - other.entropy_rise) >= _MAX_RISE:
            return False
        if abs(one.distinct_classes - other.distinct_classes) >= _MAX_DISTINCT:
            return False
    return True


def _line(row: Row, name: str) -> list[str]:
    found = row.candidates[name]
    return [
        f"{row.network}, {row.domain}",
        row.stream,
        str(row.samples),
        f"`{name}`",
        f"{found.gain:+.3f} ± {found.gain_error:.3f}",
        f"{found.entropy_rise:+.3f}",
        f"{found.distinct_classes:.2f}",
        signed(row.change_of(name)),
    ]


def sizes(rows: Sequence[Row]) -> str:
    """Render what is held back by the size of the stream, and the gains of harmful candidates."""
    head = ["n", "choices that help", "held back"]
    more = "largest gain that hurts; helpful gains above it"
    head += [f"`{name}`: {more}" for name in ("early", "replace")]
    body = []
    for label, low, high in SIZES[1:]:
        chosen = [(row, decide(row)) for row in rows if low <= row.samples <= high]
        helpful = [found for row, found in chosen if row.change_of(found.candidate) > HARM]
        held = sum(found.verdict is not VerdictCode.DEPLOY for found in helpful)
        compared = [row for row, _ in chosen if not (photographs(row) or row.change)]
        body.append(
            [
                label,
                str(len(helpful)),
                f"{held} ({100 * held / len(helpful):.0f} %)",
                *(_largest_harmful(compared, name) for name in (EARLY, REPLACE)),
            ]
        )
    return markdown(head, body)


def _largest_harmful(rows: Sequence[Row], name: str) -> str:
    largest = max(row.candidates[name].gain for row in rows if row.change_of(name) < -HARM)
    helpful = [row.candidates[name].gain for row in rows if row.change_of(name) > HARM]
    return f"{largest:.2f}; {sum(gain > largest for gain in helpful)} of {len(helpful)}"
