"""The API process parses no models, images or archives, and does not import their parsers."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBIDDEN = {
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "torch",
    "pickle5",
    "sqlite3",
    "bnrecal_client",
    "PIL",
    "pyarrow",
}
PROBE = "import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"


def loaded(statement: str) -> set[str]:
    command = [sys.executable, "-I", "-c", PROBE.format(statement=statement)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(found.stdout.split())


def test_server_loads_no_parsers() -> None:
    assert FORBIDDEN.isdisjoint(loaded("import service.server"))


@pytest.mark.parametrize("module", ["onnx", "sqlite3", "PIL"])
def test_probe_detects_imports(module: str) -> None:
    assert module in loaded(f"import service.server, {module}") & FORBIDDEN


def test_worker_loads_no_http_or_ledger() -> None:
    modules = loaded("import service.workers.child.main, service.workers.child.recalibrate")
    assert {"fastapi", "starlette", "uvicorn", "apsw", "pydantic"}.isdisjoint(modules)
