"""Every block of code in the documents is executed or parsed.

Python blocks run, here or in the test that `EXECUTED_ELSEWHERE` names, and print what they promise.
Command lines of `bnrecal` are parsed by the command's own grammar, JSON and TOML by their parsers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest

import bn_ops
from bn_ops.folding import fold
from bnrecal_client.cli.grammar import build_group
from tests.support.picture import encoded, picture
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "sharding.md", *sorted((DOCS / "tutorials").glob("*.md"))]
GUIDES = ("auto.md", "folded-models.md", "folding.md", "input-check.md")
EXECUTED_ELSEWHERE = {
    "README.md": "tests/e2e/test_readme.py",
    "clients/python/README.md": "tests/e2e/test_client_docs.py",
    "docs/client.md": "tests/e2e/test_client_docs.py",
    "docs/export.md": "tests/conformance/engines/test_torch_docs.py",
    "docs/openinference.md": "tests/e2e/test_openinference_clients.py",
    "docs/report.md": "tests/conformance/engines/test_torch_docs.py",
    "docs/torch.md": "tests/conformance/engines/test_torch_docs.py",
}
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *sorted(DOCS.rglob("*.md")),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "clients/python/README.md")),
    )
}
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages assume: the examples of the clone, a model and photographs."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(tmp_path / "examples" / "digits" / "mnist_resnet.onnx", tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(encoded(picture(80, 80, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str, place: str, names: dict[str, Any]) -> None:
    exec(compile(code, place, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_in_order(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    names: dict[str, Any] = {"__name__": "__main__"}
    if ADDRESS in text:
        with ServerProcess(folder / "data") as server:
            for block in blocks:
                run(block.replace(ADDRESS, server.url), page.name, names)
    else:
        for block in blocks:
            run(block, page.name, names)
    printed = capsys.readouterr().out.splitlines()
    for promised in re.findall(r"print\(.*\)  # (.*)", text):
        assert promised in printed, promised
    assert Path(os.curdir).resolve() == folder.resolve()


def test_pages_are_found() -> None:
    assert len(PAGES) == 8


@pytest.mark.parametrize("name", GUIDES)
def test_blocks_of_guides_run(
    name: str, folder: Path, digits: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fold(onnx.load("model.onnx")).save("folded.onnx")
    names: dict[str, Any] = {"__name__": "__main__", **digits}
    if name == "input-check.md":
        names["images"] = (255 * digits["images"].transpose(0, 2, 3, 1)).astype("uint8")
    for block in blocks_of(DOCUMENTS[f"docs/{name}"], "python"):
        run(block, name, names)
    assert "print(" not in DOCUMENTS[f"docs/{name}"] or capsys.readouterr().out
    assert Path(os.curdir).resolve() == folder.resolve()


@pytest.fixture
def digits(folder: Path) -> dict[str, Any]:
    """What the guides assume besides files: streams of digits, and some with labels."""
    from examples.digits.data import load_mnist, load_sklearn_digits

    assert folder.is_dir()
    source, target = load_mnist(), load_sklearn_digits()
    batches = [target.images[start : start + 32] for start in range(0, 128, 32)]
    return {
        "bn_ops": bn_ops,
        "batches": batches,
        "target_batches": batches,
        "source_batches": [source.images[start : start + 32] for start in range(0, 256, 32)],
        "images": target.images[900:1000],
        "labels": target.labels[900:1000],
    }


def blocks_of(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks in some languages; an empty name means no language."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def test_every_python_block_is_in_a_test() -> None:
    here = {f"docs/{name}" for name in GUIDES} | {str(page.relative_to(ROOT)) for page in PAGES}
    assert not here & EXECUTED_ELSEWHERE.keys()
    with_code = {name for name, text in DOCUMENTS.items() if blocks_of(text, "python")}
    assert with_code == here | EXECUTED_ELSEWHERE.keys()
    for name, test in EXECUTED_ELSEWHERE.items():
        assert Path(name).name in (ROOT / test).read_text(encoding="utf-8"), test


def test_every_block_of_the_readme_is_marked_as_executed() -> None:
    text = DOCUMENTS["README.md"]
    marked = re.findall(r"<!-- executed: ([\w-]+) -->\n```python\n", text)
    assert len(marked) == len(blocks_of(text, "python"))
    test = (ROOT / "tests/e2e/test_readme.py").read_text(encoding="utf-8")
    assert all(f'example("{mark}")' in test for mark in marked)


def test_languages_of_blocks_are_known() -> None:
    parsed = {"", "console", "json", "python", "sh", "toml"}
    found = set(re.findall(r"^ *```(\w+)$", "\n".join(DOCUMENTS.values()), flags=re.MULTILINE))
    assert found == parsed - {""} | {"nginx", "text", "yaml"}


def command_lines() -> list[tuple[str, str]]:
    """Return the command lines of `bnrecal` in all blocks, with the document of each."""
    found = []
    for name, text in DOCUMENTS.items():
        for block in blocks_of(text, "", "console", "sh"):
            joined = block.replace("\\\n", " ")
            lines = (line.strip().removeprefix("$ ") for line in joined.splitlines())
            found += [(name, line) for line in lines if line.startswith("bnrecal ")]
    return found


@pytest.mark.parametrize(("name", "line"), command_lines())
def test_command_line_is_valid(name: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if "&" in words:
        words = words[: words.index("&")]
    group = build_group()
    # Parsing reports unknown commands, options and values; the files need not exist.
    command = group.get_command(group.make_context("bnrecal", words[:1]), words[0])
    assert command is not None, name
    with command.make_context(words[0], words[1:]) as context:
        assert context.params or len(words) == 1


def test_command_lines_are_found() -> None:
    assert len(command_lines()) > 10


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_and_toml_are_valid(name: str) -> None:
    for block in blocks_of(DOCUMENTS[name], "json"):
        form = json.loads(block)
        assert bn_ops.preprocess_from_json(form).to_json()["mean"] == form["mean"]
    for block in blocks_of(DOCUMENTS[name], "toml"):
        assert tomllib.loads(block)
