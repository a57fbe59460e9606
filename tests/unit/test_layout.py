"""The granularity of the packages: few modules that exist for one other module, and none tiny.

A module with a single importer is often a fragment of it. It is not where the importer is a
registry and the module one of its rows: a fold rule, an admin command, a route, a batch format, a
middleware or a task of a worker. Nor is it where the importer is the module's own package, whose
names others import.
"""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"bn_ops": ROOT, "service": ROOT, "bnrecal_client": ROOT / "clients" / "python"}
REGISTRIES = {
    "bn_ops.folding.rules",
    "service.admin.command",
    "service.app",
    "service.formats.registry",
    "service.workers.child.main",
}


def modules(package: str) -> dict[str, Path]:
    """Return the files of a package by module name; those of packages under the package's name."""
    root = PACKAGES[package]
    found = {}
    for path in (root / package).rglob("*.py"):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def importers(files: dict[str, Path]) -> dict[str, set[str]]:
    """Return the modules that import each module."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
                for target in targets & files.keys():
                    found[target].add(name)
    return found


def is_fragment(module: str, users: set[str], files: dict[str, Path]) -> bool:
    """Return whether a module has a single importer that is neither a registry nor its package."""
    if len(users) != 1:
        return False
    (user,) = users
    is_package = files[user].name == "__init__.py" and module.startswith(f"{user}.")
    return user not in REGISTRIES and not is_package


@pytest.mark.parametrize("package", PACKAGES)
def test_few_modules_are_fragments_of_another(package: str) -> None:
    files = modules(package)
    used = importers(files)
    plain = [name for name, path in files.items() if not path.stem.startswith("__")]
    fragments = [name for name in plain if is_fragment(name, used[name], files)]
    assert len(fragments) <= 0.25 * len(plain), fragments


@pytest.mark.parametrize("package", PACKAGES)
def test_median_length_of_modules(package: str) -> None:
    paths = [path for path in modules(package).values() if not path.stem.startswith("__")]
    assert 120 <= statistics.median(len(path.read_text().splitlines()) for path in paths) <= 220


def test_registries_exist() -> None:
    known = set().union(*(modules(package) for package in PACKAGES))
    assert known >= REGISTRIES
