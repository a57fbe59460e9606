"""Print the dependencies that an image installs: of the server, the client and the build backend.

They are read from both pyproject.toml files, so that the images cannot differ from them.
"""

# ruff: noqa: INP001 - a standalone script
from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OWN = ("bnrecal", "bnrecal-client")
EXTRAS = ("server", "images", "postgres", "objects", "otel")


def main() -> None:
    """Write one requirement per line; each option adds some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true", help="build requirements of both wheels")
    parser.add_argument("--extra", action="append", default=[], help="an extra of the server")
    options = parser.parse_args()
    server, client = _read("pyproject.toml"), _read("clients/python/pyproject.toml")
    extras = server["project"]["optional-dependencies"]
    wanted = [*server["project"]["dependencies"], *client["project"]["dependencies"]]
    for extra in (*EXTRAS, *options.extra):
        wanted += extras[extra]
    if options.build:
        wanted += server["build-system"]["requires"] + client["build-system"]["requires"]
    foreign = {line for line in wanted if not line.startswith(OWN)}
    sys.stdout.write("".join(f"{line}\n" for line in sorted(foreign)))


def _read(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
