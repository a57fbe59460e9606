from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OWN = {"bnrecal", "bnrecal-client"}


def _name(requirement: str) -> str:
    found = NAME.match(requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def _toml(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def _required() -> set[str]:
    server, client = _toml("pyproject.toml"), _toml("clients/python/pyproject.toml")
    development = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    lines = [
        *server["build-system"]["requires"],
        *client["build-system"]["requires"],
        *server["project"]["dependencies"],
        *client["project"]["dependencies"],
        *(line.partition("#")[0].strip() for line in development),
    ]
    for project in (server["project"], client["project"]):
        for extra in project.get("optional-dependencies", {}).values():
            lines += extra
    return {_name(line) for line in lines if line} - OWN


def _documented(text: str) -> set[str]:
    return {_name(name) for name in re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)}


def test_documented_dependencies_match() -> None:
    documented = _documented((ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"))
    assert documented == _required()


def test_dependencies_are_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_name(line) for line in lines if "==" in line}
    assert _required() <= pinned


@pytest.mark.parametrize(
    ("line", "found"), [("| `a-b` | for | why |", {"a-b"}), ("text `a-b`", set())]
)
def test_only_table_rows_count(line: str, found: set[str]) -> None:
    assert _documented(line) == found
