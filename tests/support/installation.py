"""The two wheels, and a virtual environment that they are installed in."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_wheels(folder: Path) -> dict[str, Path]:
    """Build both wheels from copies of the source, so that nothing in the tree changes."""
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    wanted = ("bn_ops/", "service/", "clients/", "hatch_build.py", "README.md", "LICENSE", "pyproj")
    for name in listed:
        if name.startswith((*wanted, "CHANGELOG.md")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    for project in (source, source / "clients" / "python"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
            cwd=project, check=True, capture_output=True,
        )  # fmt: skip
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


class Installation:
    """A new virtual environment with wheels, and the third parties of this one."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--no-deps",
             "--no-index", "--quiet", *map(str, wheels)],
            check=True, capture_output=True,
        )  # fmt: skip
        (site,) = folder.glob("lib/python*/site-packages")
        # A folder that a .pth file adds does not run .pth files of its own: no editable install.
        (site / "third_parties.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if "PYTHON" not in key}
        return subprocess.run(
            list(map(str, words)), cwd=cwd, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
