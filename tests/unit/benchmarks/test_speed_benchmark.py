"""The tables of the speed benchmark follow from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed.__main__ import PAGE, RESULTS
from benchmarks.speed.store import ResultStore
from benchmarks.speed.table import write_table
from benchmarks.speed.timing import interleaved, ratio_of

ABOUT = {
    "date": "2026-01-01",
    "commit": "a",
    "cpu": "a processor",
    "cores": 2,
    "threads": 2,
    "onnxruntime": "1",
    "torch": "2",
    "images": 64,
    "batch": 16,
    "size": 224,
    "repeats": 2,
    "note": "",
    "memory_bandwidth": 20e9,
}


def _times(*seconds: float) -> list[dict[str, float]]:
    return [{"wall": one, "cpu": 2 * one} for one in seconds]


def test_a_ratio_compares_runs_of_the_same_repetition() -> None:
    times = {"ours": _times(2.0, 6.0, 4.0), "theirs": _times(1.0, 2.0, 4.0)}
    found = ratio_of(times, "ours", "theirs", "wall")
    assert found == {"median": 2.0, "least": 1.0, "greatest": 3.0}


def test_contenders_take_turns_after_one_untimed_run() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


def stored(folder: Path, **parts: dict[str, Any]) -> ResultStore:
    store = ResultStore(folder / "speed.json")
    for part, found in parts.items():
        store.replace(part, "resnet18", found, ABOUT)
    return store


FIRST = {"import": 0.5, "calls": [3.0, 1.0, 2.0, 1.5]}


def test_a_measured_part_replaces_only_itself(tmp_path: Path) -> None:
    stored(tmp_path, first=FIRST, scaling={"images": {"32": 0.64}, "threads": {"1": 2.0}})
    later = ResultStore(tmp_path / "speed.json")
    later.replace("first", "resnet50", FIRST, ABOUT | {"date": "2026-02-02", "commit": "b"})
    later.replace("first", "resnet18", FIRST | {"import": 9.0}, ABOUT)
    found = ResultStore(tmp_path / "speed.json").parts
    assert list(found) == ["first", "scaling"]
    assert found["first"]["resnet18"]["found"]["import"] == 9.0
    assert found["first"]["resnet18"]["about"]["date"] == "2026-01-01"
    assert found["first"]["resnet50"]["about"] == ABOUT | {"date": "2026-02-02", "commit": "b"}
    assert found["scaling"]["resnet18"]["found"]["images"] == {"32": 0.64}


def test_results_of_several_machines_are_labeled(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("<!-- speed: measured -->\n<!-- speed: end -->\n")
    store = stored(tmp_path, first=FIRST)
    write_table(page, store.parts)
    assert "| `recalibrate` in a fresh process | resnet18 |" in page.read_text()
    store.replace("first", "resnet50", FIRST, ABOUT | {"cpu": "another one"})
    store.replace("scaling", "n", {"images": {"32": 0.64}, "threads": {"1": 2.0}}, ABOUT)
    write_table(page, store.parts)
    lines = page.read_text().splitlines()
    assert "| `recalibrate` in a fresh process | resnet18 (1) | resnet50 (2) |" in lines
    assert "| n (1), exact | 32 images |" in lines
    assert [line for line in lines if line.startswith("1. ")] == [
        line for line in lines if "a processor" in line
    ]
    (second,) = (line for line in lines if line.startswith("2. "))
    assert "another one" in second


def test_the_documented_tables_follow_from_the_stored_results(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text(PAGE.read_text("utf-8"), encoding="utf-8")
    write_table(page, ResultStore(RESULTS).parts)
    assert page.read_text("utf-8") == PAGE.read_text("utf-8")


def test_tables_replace_the_text_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("before\n<!-- speed: measured -->\nold\n<!-- speed: end -->\nafter\n")
    ratio = {"wall": {"median": 1.5, "least": 1.25, "greatest": 2.0}}
    seconds = {"onnx exact": _times(3.0, 5.0)}
    passes = {"ratios": {"onnx exact / update_bn": ratio}, "seconds": seconds}
    results = stored(
        tmp_path,
        passes=passes,
        adapt={"32": {"ratios": {"adapt / exact, 32 images": ratio}}},
        first={"import": 0.5, "calls": [3.0, 1.0, 2.0, 1.5]},
        scaling={"images": {"32": 0.64}, "threads": {"1": 2.0, "2": 1.0}},
    ).parts
    write_table(page, results)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "| onnx exact / update_bn | 1.50 (1.25-2.00) |".replace("-", chr(0x2013)) in lines
    assert "| onnx exact | 4.00 s |" in lines
    assert "| adapt / exact, 32 images | 1.50 (1.25-2.00) |".replace("-", chr(0x2013)) in lines
    assert "| first / later calls | 2.00 |" in lines
    assert "| milliseconds per image | 20.0 |" in lines
    assert "By number of threads: 2.00 s on 1, 1.00 s on 2." in lines
    write_table(page, results)
    assert page.read_text().splitlines() == lines
