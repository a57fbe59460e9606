"""The colors of the page have enough contrast in both schemes (WCAG 2.1, level AA)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("bn_ops.diagnostics.html").joinpath("templates", "report.css").read_text("utf-8")

# (text, ground) pairs of the style sheet.
TEXT = [
    *[(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("page", "paper")],
    *[(ink, f"{tone}-back") for tone in ("good", "warn", "bad") for ink in (tone, "ink")],
]
# Marks and bars need 3:1.
MARKS = [("good", "paper"), ("warn", "paper"), ("bad", "paper"), ("peak", "paper")]


def schemes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, flags=re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks[:2])
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


def luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb` (WCAG 2.1)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_colors() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    colors = schemes()[scheme]
    for ink, ground in TEXT:
        assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    for mark, ground in MARKS:
        assert contrast(colors[mark], colors[ground]) >= 3, (mark, ground)


def test_every_color_is_a_variable() -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,6}\b", rules) == []
