"""The documents of client and command: their Python runs, and their tables are complete."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnrecal_client import errors
from bnrecal_client.cli.exit_codes import Exit
from bnrecal_client.cli.grammar import build_group
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "digits" / "mnist_resnet.onnx"
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["docs/client.md", "clients/python/README.md"])
def test_every_python_block_runs_in_order(
    document: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "model.onnx")
    for number in range(4):
        batch = np.random.default_rng(number).random((8, 1, 28, 28), dtype=np.float32)
        np.save(f"batch{number}.npy", batch)
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    names: dict[str, Any] = {"__name__": "__main__"}
    with ServerProcess(tmp_path / "data") as server:
        for block in blocks:
            code = block.replace("http://127.0.0.1:8000", server.url)
            exec(compile(code, document, "exec"), names)
    assert Path("recalibrated.onnx").stat().st_size > 0
    # What a comment behind a print promises is what was printed.
    printed = capsys.readouterr().out
    for promised in re.findall(r"print\(.*\)  # (.*)", text):
        assert promised in printed


COMMANDS = build_group().commands


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_documented(command: str) -> None:
    assert f"`bnrecal {command}" in CLI
    for param in COMMANDS[command].params:
        for option in param.opts:
            assert not option.startswith("-") or f"`{option}" in CLI, f"{command} {option}"


def test_table_of_exit_codes_is_complete() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d) \|", CLI, flags=re.MULTILINE)] == list(Exit)


def test_every_error_is_in_drawn_tree() -> None:
    text = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    names = [name for name in errors.__all__ if name[0].isupper() and name != "Problem"]
    for name in names:
        assert re.search(rf"^[│├└─ ]*{name}\b", text, flags=re.MULTILINE), name
