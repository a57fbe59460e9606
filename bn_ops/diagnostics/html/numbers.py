"""Numbers as text for people: few digits, a readable unit, and never an exponent."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = [
    "duration",
    "factor",
    "largest",
    "number",
    "parts_per_million",
    "percent",
    "plural",
    "share",
    "sigma",
    "whole",
]

_DASH = "–"

# Larger values are shown as "more than" this.
_MAX_SHOWN = 1e6

# exp of more overflows a float; such a ratio comes from a channel that had no variance.
_MAX_LOG = 700.0

_MINUTE_S = 60


def number(value: float | None, *, digits: int = 2) -> str:
    """Format a number with two decimals, fewer from 10 on; a dash for None and non-finite ones."""
    if value is None or not math.isfinite(value):
        return _DASH
    size = abs(value)
    if size > _MAX_SHOWN:
        return f"{'less than -' if value < 0 else 'more than '}{_MAX_SHOWN:,.0f}"
    digits = max(0, digits - (size >= 10) - (size >= 100))  # noqa: PLR2004 - powers of ten
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def sigma(value: float | None, *, digits: int = 2) -> str:
    """Format a distance in units of σ."""
    text = number(value, digits=digits)
    return text if text == _DASH else f"{text} σ"


def percent(value: float | None) -> str:
    """Format a share with one decimal."""
    return _DASH if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def share(value: float | None) -> str:
    """Format a share without decimals, as on a card."""
    if value is None or not math.isfinite(value):
        return _DASH
    return f"{100 * value:.1f} %" if 0 < value < 0.01 else f"{100 * value:.0f} %"  # noqa: PLR2004


def parts_per_million(value: float | None) -> str:
    """Format a relative error in parts per million."""
    if value is None or not math.isfinite(value):
        return _DASH
    return f"{number(1e6 * value)} ppm"


def factor(log_ratio: float | None) -> str:
    """Format |ln ratio| as a factor of at least 1."""
    if log_ratio is None or not math.isfinite(log_ratio):
        return _DASH
    ratio = math.exp(min(log_ratio, _MAX_LOG))
    return f"> ×{_MAX_SHOWN:,.0f}" if ratio > _MAX_SHOWN else f"×{number(ratio)}"


def whole(value: int | None) -> str:
    """Format a count with separators, None as a dash."""
    return _DASH if value is None else f"{value:,}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Format a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, or in minutes and seconds."""
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    return f"{minutes:,} min {rest} s"


def largest(values: Iterable[float | None]) -> float:
    """Return the largest finite value, or 0."""
    return max((v for v in values if v is not None and math.isfinite(v)), default=0.0)
