"""Print the dependencies that the image installs: of the server, the client and the build backend.

They are read from both pyproject.toml files, so that the image cannot differ from them.
"""

# ruff: noqa: INP001 - a standalone script
from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OWN = ("bnrecal", "bnrecal-client")


def main() -> None:
    """Write one requirement per line; `--build` adds the build requirements of both wheels."""
    server, client = _read("pyproject.toml"), _read("clients/python/pyproject.toml")
    wanted = [
        *server["project"]["dependencies"],
        *server["project"]["optional-dependencies"]["server"],
        *server["project"]["optional-dependencies"]["images"],
        *server["project"]["optional-dependencies"]["postgres"],
        *server["project"]["optional-dependencies"]["objects"],
        *client["project"]["dependencies"],
    ]
    if "--build" in sys.argv[1:]:
        wanted += server["build-system"]["requires"] + client["build-system"]["requires"]
    foreign = {line for line in wanted if not line.startswith(OWN)}
    sys.stdout.write("".join(f"{line}\n" for line in sorted(foreign)))


def _read(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
