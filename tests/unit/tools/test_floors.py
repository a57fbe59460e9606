"""The lowest versions are those of the projects, and each dependency has one."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from tools.floors import NOT_INSTALLED, PROJECTS, ROOT, floors


@pytest.mark.parametrize("path", PROJECTS)
def test_every_dependency_has_a_floor(path: str) -> None:
    project = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))
    found = {Requirement(line).name: Requirement(line) for line in floors(project)}
    extras = project["project"].get("optional-dependencies", {}).values()
    required = [*project["project"]["dependencies"], *(one for extra in extras for one in extra)]
    for requirement in map(Requirement, required):
        if requirement.name in NOT_INSTALLED | {"bnrecal-client"}:
            continue
        (only,) = found[requirement.name].specifier
        assert only.operator == "=="
        assert requirement.specifier.contains(only.version)
        assert f">={only.version}" in str(requirement.specifier)
        assert found[requirement.name].marker == requirement.marker


@pytest.mark.parametrize("requirement", ["numpy", "numpy==2.1", "numpy<3", "numpy~=2.0"])
def test_a_dependency_without_a_floor_is_an_error(requirement: str) -> None:
    with pytest.raises(ValueError, match="has no floor"):
        floors({"project": {"dependencies": [requirement]}})
