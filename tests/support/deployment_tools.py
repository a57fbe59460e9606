"""The tools that `make check-deploy` and `make sbom` install into .venv-deploy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["ROOT", "run_tool"]

ROOT = Path(__file__).parents[2]
_TOOLS = ROOT / ".venv-deploy" / "bin"


def run_tool(name: str, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a tool in the root of the project, with only PATH, HOME and the given variables."""
    path = _TOOLS / name
    assert path.exists(), f"{path} is missing: run `make check-deploy`"
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables}
    return subprocess.run(
        (path, *words), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
