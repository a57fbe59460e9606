"""Figures of a set of rows, and the division into development and held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats  # type: ignore[import-untyped]  # no stubs are installed

from benchmarks.accuracy.choice.rows import Row

__all__ = [
    "FAMILIES",
    "HARM",
    "SIZES",
    "Summary",
    "development",
    "markdown",
    "photographs",
    "signed",
    "summarize",
    "upper_bound",
]

HARM = 2.0
"""Points of accuracy below the source that count as harm, and above it as help."""

_FASHION_DEVELOPMENT = frozenset(
    {
        *("clean", "gaussian_noise", "jpeg_compression", "glass_blur", "motion_blur", "frost"),
        *("contrast", "elastic_transform"),
    }
)


# Label and limits of the groups of stream sizes.
SIZES = (("1–4", 1, 4), ("8", 8, 8), ("16", 16, 16), ("32–64", 32, 64), ("65–256", 65, 256))


def photographs(row: Row) -> bool:
    """Return whether a row has photographs and an ImageNet network."""
    return row.network in {"MobileNetV2", "EfficientNet-Lite0"}


def _images(stream: str) -> Callable[[Row], bool]:
    return lambda row: not photographs(row) and not row.change and row.stream == stream


FAMILIES: Mapping[str, Callable[[Row], bool]] = {
    "mixed": _images("mixed"),
    "long tail": _images("tail"),
    "five classes": _images("five"),
    "three classes": _images("three"),
    "two classes": _images("two"),
    "one class": _images("one"),
    "changed weights, mixed": lambda row: bool(row.change) and row.stream == "mixed",
    "changed weights, long tail": lambda row: bool(row.change) and row.stream == "tail",
    "changed weights, few classes": (
        lambda row: bool(row.change) and row.stream in {"five", "three", "two", "one"}
    ),
    "photographs": lambda row: photographs(row) and row.stream == "mixed",
    "photographs, narrow": lambda row: photographs(row) and row.stream == "narrow",
}
"""Kinds of rows; each row belongs to one. The first six are digits and Fashion-MNIST."""


def development(row: Row) -> bool:
    """Return whether the first study, which fixed most thresholds, used this family."""
    return (
        row.network.startswith("digits")
        or (row.network == "fashion0" and row.domain in _FASHION_DEVELOPMENT)
        or (row.network == "MobileNetV2" and row.domain.startswith("A/"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One policy on some rows.

    Attributes:
        regret: mean accuracy of the best of all candidates less that of the policy, in points.
        worst_regret: largest regret.
        worst_change: smallest accuracy less that of the source, in points.
        harmful: number of rows more than `HARM` points worse than the source.
    """

    regret: float
    worst_regret: float
    worst_change: float
    harmful: int

    def __str__(self) -> str:
        return (
            f"{self.regret:.1f} / {self.worst_regret:.1f} / {signed(self.worst_change)} / "
            f"{self.harmful}"
        )


def summarize(found: Sequence[tuple[Row, str]]) -> Summary:
    """Summarize rows, each with the candidate that a policy takes."""
    regrets = [row.best - row.accuracy(name) for row, name in found]
    changes = [row.change_of(name) for row, name in found]
    return Summary(
        regret=sum(regrets) / len(regrets),
        worst_regret=max(regrets),
        worst_change=min(changes),
        harmful=sum(change < -HARM for change in changes),
    )


def signed(points: float) -> str:
    """Return points with one decimal and a sign, except for zero."""
    rounded = round(points, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def upper_bound(events: int, trials: int) -> float:
    """Return the upper end of the exact 95 % interval of a rate (Clopper & Pearson 1934)."""
    if events == trials:
        return 1.0
    return float(stats.beta.ppf(0.975, events + 1, trials - events))


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Render a table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
