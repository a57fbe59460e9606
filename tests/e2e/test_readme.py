"""The examples of the README run, and the folders that it names exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from bn_ops.diagnostics.report import VerdictCode
from tests.support.networks import images, residual_network
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def example(mark: str) -> str:
    """Return the code block after a marker."""
    found = re.search(rf"<!-- executed: {mark} -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)
    assert found is not None, f"the README has no example marked {mark!r}"
    return found.group(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(residual_network(), tmp_path / "model.onnx")
    np.save(tmp_path / "new_domain.npy", images(70))
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_batchnorm(path: Path) -> bool:
    return any(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)


def test_client_example(folder: Path) -> None:
    with ServerProcess(folder / "data") as server:
        code = example("client").replace("http://127.0.0.1:8000", server.url)
        assert len(code.strip().splitlines()) <= 12
        printed = run([sys.executable, "-c", code], folder)
    assert printed.split()[0] in set(VerdictCode)
    assert not has_batchnorm(folder / "recalibrated.onnx")


def test_sample_data_fits_the_examples(tmp_path: Path) -> None:
    code = example("sample").replace('"examples/', f'"{ROOT}/examples/')
    run([sys.executable, "-c", code], tmp_path)
    printed = run([sys.executable, "-c", example("in-process")], tmp_path)
    assert printed.split()[0] in set(VerdictCode)
    assert not has_batchnorm(tmp_path / "recalibrated.onnx")


def test_in_process_example(folder: Path) -> None:
    printed = run([sys.executable, "-c", example("in-process")], folder)
    assert printed.split()[0] in set(VerdictCode)
    assert not has_batchnorm(folder / "recalibrated.onnx")


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq on the PATH"
)
def test_curl_example(folder: Path) -> None:
    with ServerProcess(folder / "data") as server:
        run(["sh", "-euc", example("curl").replace("http://127.0.0.1:8000", server.url)], folder)
    assert not has_batchnorm(folder / "recalibrated.onnx")
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_named_folders_and_modules_exist() -> None:
    section = README.split("## Code organization")[1].split("```")[1]
    missing = []
    parent = Path()
    for line in section.strip().splitlines():
        indented = line.startswith("  ")
        names = re.match(r"\s*((?:[\w./]+, )*[\w./]+)", line)
        assert names is not None
        for name in names.group(1).split(", "):
            path = (parent if indented else Path()) / name
            if not (ROOT / path).exists():
                missing.append(str(path))
        if not indented:
            parent = Path(names.group(1))
    assert missing == []
