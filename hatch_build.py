"""Build hooks: the readme for a package index, the package `bnrecal`, and the compiled reduction.

bn_ops/core/_reduction.c is compiled where there is a C compiler.

The extension uses Python's limited API, so one wheel serves Python 3.11 and newer. Without a
compiler the wheel is pure Python and `bn_ops.core.reduction` computes with numpy; set
BNRECAL_REQUIRE_COMPILER=1 to make that an error, as the container's build does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

SOURCE = Path("bn_ops/core/_reduction.c")
TARGET = Path("bn_ops/core/_reduction.abi3.so")

# -ffp-contract=off: a fused multiply-add would make the bits depend on the processor.
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fPIC", "-DPy_LIMITED_API=0x030B0000")


PACKAGE = Path("bn_ops/_bnrecal")
"""Source of the package `bnrecal`: the public names of bn_ops, and the network of the demo."""

_RELATIVE_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE)


class IndexReadme(MetadataHookInterface):
    """Replaces the relative links of README.md: a package index has none of the files."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme of the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": _RELATIVE_LINK.sub(_without_link, _COMMENT.sub("", text)),
        }


def _without_link(link: re.Match[str]) -> str:
    """Return the text of a link, with the file in the source tree where the text is another."""
    text, file = link[1], link[2].partition("#")[0]
    return text if text == file else f"{text} ({file})"


class CompleteWheel(BuildHookInterface[Any]):
    """Adds `bnrecal` and the compiled reduction to a wheel, also to that of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel with its platform if that succeeded."""
        if self.target_name != "wheel":
            return
        key = "force_include_editable" if version == "editable" else "force_include"
        for file in ("__init__.py", "__main__.py", "demo_network.py", "py.typed"):
            build_data[key][str(Path(self.root) / PACKAGE / file)] = f"bnrecal/{file}"
        problem = _compile(Path(self.root))
        if problem is None:
            build_data["artifacts"].append(str(TARGET))
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
            return
        if os.environ.get("BNRECAL_REQUIRE_COMPILER") == "1":
            raise RuntimeError(f"the reduction was not compiled: {problem}")
        self.app.display_warning(f"bnrecal is built without its compiled reduction: {problem}")


def _compile(root: Path) -> str | None:
    """Compile in place; return the reason where that is not possible."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if sys.platform == "win32" or shutil.which(compiler[0]) is None:
        compiler = ["cc"]
    if sys.platform == "win32" or shutil.which(compiler[0]) is None:
        return "no C compiler (cc) was found"
    mac = sys.platform == "darwin"
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if mac else ["-shared"]
    partial = root / TARGET.with_suffix(f".{os.getpid()}.tmp")
    command = [
        *(compiler[0], *FLAGS, *shared, f"-I{sysconfig.get_paths()['include']}"),
        *(str(root / SOURCE), "-o", str(partial)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our words
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        return f"{shlex.join(command)} failed: {done.stderr.strip()[-500:]}"
    partial.replace(root / TARGET)
    return None
