"""Importing the client loads no heavy package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = ("torch", "onnx", "onnxruntime", "onnx_ir", "bn_ops", "service", "fastapi")
PACKAGE = Path(__file__).parents[3] / "clients" / "python" / "bnrecal_client"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


def loaded_after(code: str) -> list[str]:
    """Run code in a fresh interpreter; return the forbidden packages that it has loaded."""
    probe = f"import sys\n{code}\nprint(*[name for name in {FORBIDDEN!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_importing_every_module_loads_nothing_heavy() -> None:
    assert "bnrecal_client.cli.commands.recalibrate" in MODULES
    assert loaded_after("\n".join(f"import {module}" for module in MODULES)) == []


@pytest.mark.parametrize("name", ["bn_ops", "onnx", "service"])
def test_import_test_can_fail(name: str) -> None:
    assert name in loaded_after(f"import bnrecal_client\nimport {name}")


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = """
from bnrecal_client.cli import main
for command in ("recalibrate", "inspect", "fold", "serve", "status", "fetch", "cancel"):
    try:
        main([command, "--help"])
    except SystemExit:
        pass
sys.stdout.flush()
print("----")
"""
    assert loaded_after(code)[-1] == "----"
