"""The parts that the page is built from: table, badge, bar, card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bn_ops.diagnostics.html._markup import Markup, join, tag

__all__ = ["badge", "bar", "card", "section", "table"]

_BAR_WIDTH = 150  # pixels of the longest bar
_TONES = {
    "recalibrated": "good",
    "folded": "good",
    "kept": "warn",
    "unsupported": "warn",
    "unreached": "warn",
}


def section(title: str, note: str | None, *parts: str | None) -> Markup:
    """Put a heading and a grey line above some parts."""
    below = None if note is None else tag("p", note, class_="note")
    return join([tag("h2", title), below, *parts])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Lay out rows. The first column holds names; a heading with a leading `*` is over numbers."""
    kinds = ["n" if title.startswith("*") else None for title in head]
    titles = [
        tag("th", title.lstrip("*"), class_=kind, scope="col")
        for title, kind in zip(head, kinds, strict=True)
    ]
    kinds[0] = "name"
    lines = [
        tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    grid = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    return tag("div", grid, class_="scroll")


def badge(status: str) -> Markup:
    """Show a status as a coloured word."""
    tone = _TONES.get(status)
    kind = "badge" if tone is None else f"badge {tone}"
    return tag("span", status.replace("_", " "), class_=kind)


def card(title: str, value: str, below: str, *, good: bool | None = None) -> Markup:
    """Show one figure of the summary."""
    tone = None if good is None else ("good" if good else "bad")
    return tag(
        "div",
        tag("dt", title),
        tag("dd", value, class_=tone),
        tag("dd", below, class_="sub"),
        class_="card",
    )


def bar(near: float | None, far: float | None, end: float, label: str) -> Markup:
    """Draw two bars from the same origin, the shorter over the longer, below their label.

    Args:
        near: value of the strong bar.
        far: value of the pale bar, or None for no such bar.
        end: value of the full width.
        label: the values in words.
    """
    longest_first = sorted(
        [("far", far), ("near", near)], key=lambda one: one[1] or 0.0, reverse=True
    )
    parts = [_rectangle(value, end, kind) for kind, value in longest_first]
    drawing = tag("svg", *parts, class_="bar", width=_BAR_WIDTH, height=8, aria_hidden="true")
    return join([tag("span", label, class_="figures"), drawing])


def _rectangle(value: float | None, end: float, kind: str) -> Markup | None:
    if value is None or end <= 0:
        return None
    # Sizes are attributes: a style attribute would need 'unsafe-inline' in the policy.
    width = _BAR_WIDTH * min(value / end, 1.0)
    return tag("rect", width=f"{width:.1f}", height=8, rx=2, class_=kind)
