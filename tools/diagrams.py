"""The diagrams of docs/, drawn as SVG: `python -m tools.diagrams` writes them, a test compares.

Each is an image of its own that loads nothing, follows the color scheme of the reader, and is
narrow enough for a phone. Positions are written by hand; the layers of the packages come from the
contracts in pyproject.toml, and a test compares the lifecycle with its table.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Literal

__all__ = ["LIFECYCLE", "Arrow", "Box", "Diagram", "architecture", "decision", "drawn", "main"]

Kind = Literal["node", "question", "group", "go", "careful", "stop", "end"]
Point = tuple[int, int]

_ROOT = Path(__file__).parents[1]
_LINE = 18
_STYLE = """
    text { font: 14px system-ui, sans-serif; fill: #1f2937 }
    .question text, .group > text { font-weight: 600 }
    .label { font-size: 13px; fill: #4b5563 }
    rect { fill: #ffffff; stroke: #6b7280; rx: 6px }
    .question rect { fill: #eef2ff; stroke: #4f46e5 }
    .group rect { fill: #f3f4f6; stroke: #d1d5db }
    .go rect { fill: #ecfdf5; stroke: #059669 }
    .careful rect { fill: #fffbeb; stroke: #d97706 }
    .stop rect { fill: #fef2f2; stroke: #dc2626 }
    .end rect { stroke-width: 3 }
    path { fill: none; stroke: #6b7280; stroke-width: 1.5 }
    .dashed { stroke-dasharray: 5 4 }
    marker path, circle { fill: #6b7280; stroke: none }
    @media (prefers-color-scheme: dark) {
      text { fill: #e5e7eb }
      .label { fill: #b6bdc9 }
      rect { fill: #1f2937; stroke: #9ca3af }
      .question rect { fill: #1e1b4b; stroke: #a5b4fc }
      .group rect { fill: #161b26; stroke: #4b5563 }
      .go rect { fill: #052e24; stroke: #34d399 }
      .careful rect { fill: #33230a; stroke: #fbbf24 }
      .stop rect { fill: #3b1214; stroke: #f87171 }
      path { stroke: #9ca3af }
      marker path, circle { fill: #9ca3af }
    }
"""
_ARROWHEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle with centered lines of text; that of a group is at its top.

    Attributes:
        at: left and top, in px.
        size: width and height, in px.
        lines: the text.
        kind: how it looks.
    """

    at: Point
    size: Point
    lines: tuple[str, ...]
    kind: Kind = "node"

    @property
    def bottom(self) -> int:
        """The lower edge, in px."""
        return self.at[1] + self.size[1]

    def svg(self) -> Iterator[str]:
        """Yield the lines of its element."""
        (x, y), (width, height) = self.at, self.size
        yield f'<g class="{self.kind}">'
        yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}"/>'
        first = y + 20 if self.kind == "group" else y + (height - _LINE * len(self.lines)) // 2 + 14
        for number, line in enumerate(self.lines):
            yield _text(line, (x + width // 2, first + _LINE * number), "middle")
        yield "</g>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """A line through points, with a head at its end.

    Attributes:
        points: corners, in px.
        label: text next to it.
        label_at: where the label begins, in px.
        dashed: whether the line is dashed.
        source: name of the thing where it begins, for tests.
        target: name of the thing where it ends, for tests.
    """

    points: tuple[Point, ...]
    label: str = ""
    label_at: Point = (0, 0)
    dashed: bool = False
    source: str = ""
    target: str = ""

    def svg(self) -> Iterator[str]:
        """Yield the lines of its elements."""
        corners = "L".join(f"{x} {y}" for x, y in self.points)
        style = ' class="dashed"' if self.dashed else ""
        yield f'<path d="M{corners}"{style} marker-end="url(#head)"/>'
        if self.label:
            yield _text(self.label, self.label_at, "start", "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """A picture of boxes and arrows.

    Attributes:
        title: what a screen reader says where the page gives no other text.
        size: width and height, in px.
        boxes: the boxes, groups before the boxes in them.
        arrows: the arrows.
        dot: center of a dot where a state diagram begins; None for none.
    """

    title: str
    size: Point
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    dot: Point | None = None

    def svg(self) -> str:
        """Return the file."""
        width, height = self.size
        return "\n".join(
            [
                (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                    f'width="{width}" height="{height}" role="img">'
                ),
                f"<title>{escape(self.title)}</title>",
                f"<style>{_STYLE}</style>",
                f"<defs>{_ARROWHEAD}</defs>",
                *(line for box in self.boxes for line in box.svg()),
                *self._dot(),
                *(line for arrow in self.arrows for line in arrow.svg()),
                "</svg>\n",
            ]
        )

    def _dot(self) -> Iterator[str]:
        if self.dot is not None:
            yield f'<circle cx="{self.dot[0]}" cy="{self.dot[1]}" r="6"/>'


def _text(line: str, at: Point, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{at[0]}" y="{at[1]}" text-anchor="{anchor}"{style}>{escape(line)}</text>'


# Should I recalibrate?


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A question of the decision, with the answer that ends it.

    Attributes:
        question: the question.
        ends_with: `yes` or `no`, the answer that leads to the advice.
        advice: what to do then.
        kind: how the advice looks.
    """

    question: str
    ends_with: str
    advice: str
    kind: Kind


# The rates are those of docs/evidence.md; tests/unit/test_docs_links.py compares them.
_STEPS = (
    _Step(
        question="Does the model have BatchNorm layers? (bnrecal inspect)",
        ends_with="no",
        advice="Insert layers from samples of the old domain, or export again",
        kind="careful",
    ),
    _Step(
        question="Does the new data pass the input check?",
        ends_with="no",
        advice="Correct the preprocessing first: recalibration would hide the error",
        kind="stop",
    ),
    _Step(
        question="Do you have labels for 30 samples or more?",
        ends_with="yes",
        advice="Recalibrate with evaluate= or --labels: the labels decide",
        kind="go",
    ),
    _Step(
        question="Are there 100 unlabeled samples from many places and times?",
        ends_with="no",
        advice="Use Auto or Shrink, and expect check-with-labels",
        kind="careful",
    ),
    _Step(
        question="Do they show all classes about as often as in use?",
        ends_with="no",
        advice="Use Auto: it keeps the source when it cannot decide",
        kind="careful",
    ),
    _Step(
        question="Does the network distinguish few classes (10, not 1,000)?",
        ends_with="no",
        advice="Get labels: Replace hurt in 467 of 550 rows, Auto in 0",
        kind="careful",
    ),
)
_END = (
    "Recalibrate with Auto(varied=True) and follow the verdict: 0 of 685 rows with deploy lost "
    "more than 2 points"
)


def decision() -> Diagram:
    """Return the decision chart of docs/should-i-recalibrate.md."""
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    left, width, right, advice_width, height, gap = 8, 232, 290, 222, 64, 40
    middle = left + width // 2
    y = 8
    for step in _STEPS:
        boxes.append(_filled((left, y), (width, height), step.question, "question", 25))
        boxes.append(_filled((right, y), (advice_width, height), step.advice, step.kind, 28))
        goes_on = "no" if step.ends_with == "yes" else "yes"
        side = y + height // 2
        arrows.append(
            Arrow(
                points=((left + width, side), (right, side)),
                label=step.ends_with,
                label_at=(left + width + 14, side - 6),
            )
        )
        arrows.append(
            Arrow(
                points=((middle, y + height), (middle, y + height + gap)),
                label=goes_on,
                label_at=(middle + 8, y + height + 24),
            )
        )
        y += height + gap
    boxes.append(_filled((left, y), (right + advice_width - left, height), _END, "go", 58))
    return Diagram(
        title="Should I recalibrate?",
        size=(right + advice_width + 8, y + height + 8),
        boxes=tuple(boxes),
        arrows=tuple(arrows),
    )


def _filled(at: Point, size: Point, text: str, kind: Kind, columns: int) -> Box:
    """Return a box with a text in lines of at most `columns` characters."""
    return Box(at=at, size=size, lines=tuple(wrap(text, columns)), kind=kind)


# The lifecycle of a recalibration.


def _state(name: str, at: Point, kind: Kind = "node") -> Box:
    return Box(at=at, size=(120, 36), lines=(name,), kind=kind)


def _event(
    source: str, label: str, target: str, points: tuple[Point, ...], label_at: Point
) -> Arrow:
    return Arrow(points=points, label=label, label_at=label_at, source=source, target=target)


LIFECYCLE = Diagram(
    title="States of a recalibration",
    size=(492, 462),
    boxes=(
        _state("open", (90, 40)),
        _state("sealed", (90, 130)),
        _state("queued", (90, 220)),
        _state("running", (90, 320)),
        _state("succeeded", (90, 416), "end"),
        _state("cancelled", (360, 130), "end"),
        _state("failed", (360, 416), "end"),
    ),
    arrows=(
        Arrow(points=((150, 16), (150, 40))),
        _event("open", "start", "sealed", ((150, 76), (150, 130)), (158, 108)),
        _event("sealed", "admit", "queued", ((150, 166), (150, 220)), (158, 198)),
        _event("queued", "begin", "running", ((150, 256), (150, 320)), (158, 302)),
        _event("running", "finish", "succeeded", ((150, 356), (150, 416)), (158, 391)),
        _event(
            *("running", "interrupt", "queued"),
            ((90, 338), (72, 338), (72, 238), (90, 238)),
            (8, 292),
        ),
        _event("open", "cancel", "cancelled", ((210, 58), (420, 58), (420, 130)), (222, 52)),
        _event("sealed", "cancel", "cancelled", ((210, 148), (360, 148)), (222, 142)),
        _event("queued", "cancel", "cancelled", ((210, 230), (400, 230), (400, 166)), (222, 224)),
        _event("running", "cancel", "cancelled", ((210, 330), (440, 330), (440, 166)), (222, 324)),
        _event("running", "fail", "failed", ((210, 346), (420, 346), (420, 416)), (222, 362)),
        _event(
            *("queued", "fail", "failed"),
            ((210, 246), (300, 246), (300, 434), (360, 434)),
            (222, 262),
        ),
    ),
    dot=(150, 10),
)


# The packages and their layers.

_CLIENT = (
    "cli",
    "client | async_client",
    "jobs | result | options | progress",
    "_http | _encoding",
)
_WIDTH = 504


def architecture(layers: dict[str, Sequence[str]]) -> Diagram:
    """Return the picture of docs/architecture.md.

    Args:
        layers: the layers of each package, the uppermost first, as import-linter writes them.
    """
    boxes: list[Box] = []
    tops: dict[str, tuple[int, int]] = {}
    y = 8
    for package, rows in (("bnrecal_client", _CLIENT), *layers.items()):
        inside = y + 32
        stack: list[Box] = []
        for row in rows:
            lines = tuple(wrap(row.replace(" | ", ", "), 54))
            box = Box(at=(56, inside), size=(_WIDTH - 112, 12 + _LINE * len(lines)), lines=lines)
            stack.append(box)
            inside = box.bottom + 6
        group = Box(at=(40, y), size=(_WIDTH - 80, inside + 6 - y), lines=(package,), kind="group")
        boxes += [group, *stack]
        tops[package] = (y, group.bottom)
        y = group.bottom + 46
    client, service, library = tops["bnrecal_client"], tops["service"], tops["bn_ops"]
    arrows = (
        Arrow(
            points=((252, client[1]), (252, service[0])),
            label="HTTP",
            label_at=(260, client[1] + 28),
            dashed=True,
        ),
        Arrow(
            points=((252, service[1]), (252, library[0])),
            label="workers, in their process",
            label_at=(260, service[1] + 28),
        ),
        Arrow(
            points=(
                *((40, client[0] + 60), (16, client[0] + 60)),
                *((16, library[0] + 40), (40, library[0] + 40)),
            ),
            label="without --server",
            label_at=(22, service[0] - 18),
            dashed=True,
        ),
    )
    return Diagram(
        title="Packages and their layers",
        size=(_WIDTH, y - 38),
        boxes=tuple(boxes),
        arrows=arrows,
    )


def _contracts() -> dict[str, Sequence[str]]:
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        contract["containers"][0]: contract["layers"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    }


def drawn() -> dict[str, str]:
    """Return the files of all diagrams by name."""
    return {
        "decision.svg": decision().svg(),
        "lifecycle.svg": LIFECYCLE.svg(),
        "architecture.svg": architecture(_contracts()).svg(),
    }


def main(docs: Path) -> int:
    """Write the diagrams into `diagrams` of a folder of documents."""
    folder = docs / "diagrams"
    folder.mkdir(exist_ok=True)
    for name, text in drawn().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or ["docs"])))
