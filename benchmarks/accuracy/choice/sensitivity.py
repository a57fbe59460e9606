"""The rule with one threshold changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from unittest import mock

from benchmarks.accuracy.choice.policy import decide, scores_of
from benchmarks.accuracy.choice.rows import Row
from benchmarks.accuracy.choice.summary import (
    FAMILIES,
    HARM,
    development,
    markdown,
    signed,
    summarize,
)
from bn_ops.auto import decision
from bn_ops.auto.criterion import Gain, Scores, gain
from bn_ops.diagnostics.report import Candidate, VerdictCode

__all__ = ["sensitivity_table"]

# Threshold in `bn_ops.auto.decision` → other values.
_VARIANTS: dict[str, tuple[float, ...]] = {
    "MIN_SAMPLES": (4, 16),
    "MIN_SAMPLES_TO_DEPLOY": (16, 64),
    "_ERRORS": (1, 3),
    "_VARIED_CLASSES": (2, 4),
    "_VARIED_SHARE": (0.2, 0.5),
    "_VARIED_FLOOR": (0.3, 1),
    "_SEVERAL_CLASSES": (2.2, 3.5),
    "_SEVERAL_SHARE": (0.1, 0.3),
    "_BROAD_CLASSES": (2.5, 4),
    "_BROAD_SHARE": (0.15, 0.35),
    "_MODERATE_GAIN": (0.01, 0.1),
    "_EQUAL_ENTROPY": (0, 0.1),
    "_CLEAR_GAIN": (0.08, 0.2),
    "_LARGE_GAIN": (0.12, 0.3),
    "_FEW_CLASSES_LIMIT": (9, 1_000),
    "_EARLY_MIN_SAMPLES": (8, 32),
    "_EARLY_DISTINCT": (1.5, 3),
    "_EARLY_GAIN": (0.15, 0.35),
    "_EARLY_ENTROPY": (0.2, 0.8),
    "_SMALL_GAIN": (0.1, 0.25),
    "_OPEN_ERRORS": (0, 2),
}


def sensitivity_table(rows: Sequence[Row]) -> str:
    """Render the figures of the rule as it is, and with each threshold changed."""
    scored = [(row, scores_of(row)) for row in rows]
    parts = [[one for one in scored if development(one[0]) == first] for first in (True, False)]
    head = [
        "threshold",
        "value",
        *(
            f"{part}: mean / worst regret, mixed n ≥ 16; worst change; harmful; `deploy`, harmful"
            for part in ("development", "held out")
        ),
    ]
    # Gains do not depend on a threshold, and computing them takes most of the time of a decision.
    with mock.patch.object(decision, "gain", _Gains()):
        body = [["(as it is)", "", *(_figures(part) for part in parts)]]
        for name, values in _VARIANTS.items():
            assert hasattr(decision, name)
            for value in values:
                with mock.patch.object(decision, name, value):
                    figures = [_figures(part) for part in parts]
                shown = f"{value:g} for {getattr(decision, name):g}"
                body.append([f"`{name.lstrip('_')}`", shown, *figures])
    return markdown(head, body)


class _Gains:
    """`bn_ops.auto.criterion.gain`, computed once for each pair of scores."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Scores, Scores, Gain]] = {}

    def __call__(self, before: Scores, after: Scores) -> Gain:
        key = id(before), id(after)
        if key not in self._known:  # the scores are kept, so that an id stays theirs
            self._known[key] = before, after, gain(before, after)
        return self._known[key][2]


def _figures(rows: Sequence[tuple[Row, Mapping[Candidate, Scores]]]) -> str:
    """Return the figures of one cell."""
    found = [(row, decide(row, scores=scores)) for row, scores in rows]
    every = summarize([(row, each.candidate) for row, each in found])
    mixed = summarize(
        [(r, d.candidate) for r, d in found if FAMILIES["mixed"](r) and r.samples >= 16]
    )
    deployed = [(r, d.candidate) for r, d in found if d.verdict is VerdictCode.DEPLOY]
    harmful = sum(row.change_of(name) < -HARM for row, name in deployed)
    return (
        f"{mixed.regret:.1f} / {mixed.worst_regret:.1f}; {signed(every.worst_change)}; "
        f"{every.harmful}; {len(deployed)}, {harmful}"
    )
