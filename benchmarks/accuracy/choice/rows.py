"""Rows of the study of `Auto`, one per network, domain and stream, as a compact file.

The file is gzipped JSON with one list per column, so that 3,430 rows with 17 candidates stay below
2 MB. Accuracies are counts of correct test images, criteria are rounded to 6 digits, the precision
at which the rule compares them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.accuracy.results import RESULTS

__all__ = [
    "EARLY",
    "LATER_ROWS",
    "LETTER_ROWS",
    "REPLACE",
    "ROWS",
    "SMALL",
    "SOURCE",
    "Measured",
    "Row",
    "read_rows",
    "write_rows",
]

ROWS = RESULTS / "accuracy-choice.json.gz"

LATER_ROWS = RESULTS / "accuracy-choice-later.json.gz"
"""Rows that were measured after the rule had been fixed."""

LETTER_ROWS = RESULTS / "accuracy-choice-letters.json.gz"
"""Rows of data that took no part in setting the rule."""

SOURCE, SMALL, EARLY, REPLACE = "source", "share-0.02", "third-0.1", "share-1"
"""Candidates of `Auto`, by their names in the rows."""

_DIGITS = 6
_KEYS = ("network", "change", "domain", "stream", "samples", "draw", "classes", "tested")
_CRITERIA = ("gain", "gain_error", "entropy_rise", "distinct_classes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One candidate on one stream.

    Attributes:
        correct: number of correct test images.
        gain: rise of the criterion over the source, in units of ln min(n, K) for n probe samples.
        gain_error: paired standard error of `gain`; infinite for one sample.
        entropy_rise: rise of the mean entropy of a prediction, in units of ln K.
        distinct_classes: number of classes that the predictions distinguish, between 1 and K
            (exp of the mean divergence from the mean prediction).
    """

    correct: int
    gain: float
    gain_error: float
    entropy_rise: float
    distinct_classes: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stream of unlabeled images, and what every candidate does to the accuracy on others.

    Attributes:
        network: name of the network, with the number of its training.
        change: change of the weights since the statistics were stored, or empty.
        domain: corruption or data set; for photographs, set and corruption.
        stream: kind of stream, a key of `STREAMS` or `PHOTO_STREAMS`.
        samples: size of the stream, n. The first 64 are the probe.
        draw: number of the random draw.
        classes: number of classes of the network, K.
        tested: number of labeled test images.
        candidates: results by name of the candidate.
    """

    network: str
    change: str
    domain: str
    stream: str
    samples: int
    draw: int
    classes: int
    tested: int
    candidates: Mapping[str, Measured]

    @property
    def probe(self) -> int:
        """Number of samples on which the criterion was measured."""
        return min(self.samples, PROBE)

    @cached_property
    def best(self) -> float:
        """Accuracy of the best candidate in percent."""
        return max(self.accuracy(name) for name in self.candidates)

    def accuracy(self, candidate: str) -> float:
        """Return the accuracy of a candidate in percent."""
        return 100 * self.candidates[candidate].correct / self.tested

    def change_of(self, candidate: str) -> float:
        """Return the accuracy of a candidate less that of the source, in points."""
        return self.accuracy(candidate) - self.accuracy(SOURCE)


PROBE = 64
"""Largest number of samples on which candidates are compared."""


def write_rows(rows: Sequence[Row], note: Mapping[str, str], path: Path = ROWS) -> Path:
    """Write rows; the same rows give the same bytes.

    Args:
        rows: rows with the same candidates.
        note: how, when and on what device they were measured.
        path: file to write.
    """
    columns: dict[str, list[Any]] = {key: [getattr(row, key) for row in rows] for key in _KEYS}
    for name in rows[0].candidates:
        found = [row.candidates[name] for row in rows]
        columns[f"{name}.correct"] = [each.correct for each in found]
        for key in _CRITERIA:
            columns[f"{name}.{key}"] = [_rounded(getattr(each, key)) for each in found]
    text = json.dumps({**note, "columns": columns}, separators=(",", ":"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return path


def _rounded(value: float) -> float | None:
    """Round; JSON has no infinity."""
    return None if value == float("inf") else round(value, _DIGITS)


def read_rows(path: Path = ROWS) -> list[Row]:
    """Read the rows that `write_rows` wrote."""
    columns = json.loads(gzip.decompress(path.read_bytes()))["columns"]
    names = [key.removesuffix(".correct") for key in columns if key.endswith(".correct")]
    count = len(columns["network"])
    return [
        Row(
            **{key: columns[key][i] for key in _KEYS},
            candidates={
                name: Measured(
                    correct=columns[f"{name}.correct"][i],
                    **{key: _unrounded(columns[f"{name}.{key}"][i]) for key in _CRITERIA},
                )
                for name in names
            },
        )
        for i in range(count)
    ]


def _unrounded(value: float | None) -> float:
    return float("inf") if value is None else value
