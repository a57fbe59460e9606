"""The drawn diagrams are current, complete and readable."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from service.repositories.lifecycle import TRANSITIONS
from tools.diagrams import LIFECYCLE, Diagram, architecture, decision, drawn

DOCS = Path(__file__).parents[3] / "docs"
DIAGRAMS = [decision(), LIFECYCLE, architecture({"service": ["a | b", "c"], "bn_ops": ["d"]})]
# The mean width of a letter of 14 px, measured in DejaVu Sans, which is wider than most fonts.
CHARACTER_PX = {"question": 8.9, "group": 8.9}


def test_files_are_current() -> None:
    written = {
        path.name: path.read_text(encoding="utf-8") for path in (DOCS / "diagrams").iterdir()
    }
    assert written == drawn(), "run `python -m tools.service_docs`"


def test_every_diagram_is_shown_with_a_text() -> None:
    pages = [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")]
    shown = re.findall(r"!\[([^\]]+)\]\(diagrams/([\w.]+)\)", "\n".join(pages))
    assert sorted(name for _, name in shown) == sorted(drawn())
    assert all(len(text) > 40 for text, _ in shown)


def test_lifecycle_shows_every_transition() -> None:
    drawn_ways = {(way.source, way.label, way.target) for way in LIFECYCLE.arrows if way.source}
    assert drawn_ways == {
        (str(state), str(event), str(target))
        for state, events in TRANSITIONS.items()
        for event, target in events.items()
    }
    ended = {box.lines[0] for box in LIFECYCLE.boxes if box.kind == "end"}
    assert ended == {str(state) for state, events in TRANSITIONS.items() if not events}


@pytest.mark.parametrize("way", [way for way in LIFECYCLE.arrows if way.source])
def test_transitions_touch_their_states(way: object) -> None:
    boxes = {box.lines[0]: box for box in LIFECYCLE.boxes}
    for name, (x, y) in (
        (way.source, way.points[0]),  # type: ignore[attr-defined]
        (way.target, way.points[-1]),  # type: ignore[attr-defined]
    ):
        (left, top), (width, height) = boxes[name].at, boxes[name].size
        assert (x in (left, left + width) and top <= y <= top + height) or (
            y in (top, top + height) and left <= x <= left + width
        )


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=lambda diagram: diagram.title)
def test_text_fits_into_its_box(diagram: Diagram) -> None:
    for box in diagram.boxes:
        assert max(map(len, box.lines)) * CHARACTER_PX.get(box.kind, 7.6) <= box.size[0]
        assert box.at[0] + box.size[0] <= diagram.size[0]
        assert box.bottom <= diagram.size[1]


@pytest.mark.parametrize("text", drawn().values(), ids=drawn())
def test_file_is_xml_that_loads_nothing(text: str) -> None:
    assert ET.fromstring(text).tag.endswith("svg")
    assert not re.search(r"<(script|image|use|a|foreignObject)\b|url\((?!#head)", text)
