"""The lowest versions that the packages allow: `python -m tools.floors` prints one line for each.

Each dependency of both pyproject.toml files has a floor, `>=`, that is a released version.
`make test-floors` installs exactly these and runs tests with them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["floors", "main"]

ROOT = Path(__file__).parents[1]
PROJECTS = ("pyproject.toml", "clients/python/pyproject.toml")

# torch's wheels on the package index hold CUDA (gigabytes), so the tests use the installed torch.
# Ray has 240 MB, and these tests do not start it.
NOT_INSTALLED = {"torch", "ray"}

_FLOOR = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+(\[[a-z,]+\])?)>=(?P<version>[0-9.]+)(,<[0-9.]+)?(?P<marker>\s*;.*)?"
)


def floors(project: dict[str, Any]) -> list[str]:
    """Return the lowest versions that a project allows, as requirements with `==`.

    Args:
        project: the value of a pyproject.toml.

    Raises:
        ValueError: a dependency has no floor.
    """
    section = project["project"]
    extras = section.get("optional-dependencies", {}).values()
    found = []
    for requirement in [*section["dependencies"], *(one for extra in extras for one in extra)]:
        if requirement.startswith("bnrecal-client=="):
            continue
        known = _FLOOR.fullmatch(requirement)
        if known is None:
            raise ValueError(f"{requirement!r} has no floor")
        if known["name"] not in NOT_INSTALLED:
            found.append(f"{known['name']}=={known['version']}{known['marker'] or ''}")
    return found


def main() -> int:
    """Print the floors of both projects."""
    lines = {
        line
        for path in PROJECTS
        for line in floors(tomllib.loads((ROOT / path).read_text(encoding="utf-8")))
    }
    sys.stdout.writelines(f"{line}\n" for line in sorted(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
