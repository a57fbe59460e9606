"""Both wheels: what they contain, and that they work where nothing else is installed by hand."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import bn_ops
import bnrecal_client
from tests.support.installation import Installation, build_wheels

ROOT = Path(__file__).parents[2]
MAX_BYTES = {"bnrecal": 2_000_000, "bnrecal_client": 150_000}

pytestmark = pytest.mark.xdist_group("wheels")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_wheels(tmp_path_factory.mktemp("wheels"))


def members(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    found = members(wheel)
    return message_from_string(found[next(name for name in found if name.endswith("/METADATA"))])


@pytest.mark.parametrize("name", MAX_BYTES)
def test_size(wheels: dict[str, Path], name: str) -> None:
    assert wheels[name].stat().st_size <= MAX_BYTES[name]


def test_packages_and_markers(wheels: dict[str, Path]) -> None:
    server, client = members(wheels["bnrecal"]), members(wheels["bnrecal_client"])
    top = {name.partition("/")[0] for name in server if ".dist-info" not in name}
    assert top == {"bn_ops", "bnrecal", "service"}
    for package in top:
        assert f"{package}/py.typed" in server
    assert "bnrecal_client/py.typed" in client
    assert not [
        name for name in server if name.startswith("bn_ops/_bnrecal") or name.endswith(".c")
    ]
    assert not [
        name for name in client if not name.startswith(("bnrecal_client/", "bnrecal_client-"))
    ]
    for found in (server, client):
        assert any(name.endswith("licenses/LICENSE") for name in found)


@pytest.mark.parametrize("name", MAX_BYTES)
def test_metadata_is_complete(wheels: dict[str, Path], name: str) -> None:
    found = metadata(wheels[name])
    assert found["Version"] == bn_ops.__version__
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Description-Content-Type"] == "text/markdown"
    # Neither authors nor addresses are known, and an invented one could belong to someone else.
    for field in ("Author", "Author-email", "Home-page", "Project-URL"):
        assert field not in found


@pytest.mark.parametrize("name", MAX_BYTES)
def test_readme_has_no_relative_link(wheels: dict[str, Path], name: str) -> None:
    text = str(metadata(wheels[name]).get_payload())
    assert len(text) > 500
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "<!--" not in text


@pytest.mark.parametrize("name", MAX_BYTES)
def test_readme_renders_on_a_package_index(wheels: dict[str, Path], name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheels[name])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_agree() -> None:
    server, client = (
        tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
        for path in ("pyproject.toml", "clients/python/pyproject.toml")
    )
    version = server["version"]
    assert client["version"] == bn_ops.__version__ == bnrecal_client.__version__ == version
    for extra in ("client", "server"):
        assert f"bnrecal-client=={version}" in server["optional-dependencies"][extra]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version)}\] - 20\d\d-\d\d-\d\d$", changelog, re.MULTILINE)


@pytest.fixture(scope="module")
def both(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("venv") / "v", list(wheels.values()))


def test_command_and_import_work(both: Installation, tmp_path: Path) -> None:
    for words in ((both.bin / "bnrecal",), (both.python, "-m", "bnrecal")):
        done = both.run(*words, "--help", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "recalibrate" in done.stdout
    code = (
        "import bnrecal, bn_ops, sys; assert 'site-packages/bnrecal/' in bnrecal.__file__; "
        "assert not {'torch', 'onnx', 'onnxruntime'} & sys.modules.keys(); "
        "assert bnrecal.__version__ == bn_ops.__version__; assert dir(bnrecal) == dir(bn_ops); "
        "assert bnrecal.adapt is bn_ops.adapt; assert set(bnrecal.__all__) == set(bn_ops.__all__); "
        "from bnrecal import Shrink; assert not hasattr(bnrecal, 'nothing'); print('fine')"
    )
    done = both.run(both.python, "-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_module_without_the_client_names_what_to_install(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    alone = Installation(tmp_path / "v", [wheels["bnrecal"]])
    done = alone.run(alone.python, "-m", "bnrecal", "--help", cwd=tmp_path)
    assert done.returncode == 2
    assert 'pip install "bnrecal[client]"' in done.stderr


@pytest.mark.parametrize("layout", ["service.py", "service/__init__.py"])
def test_another_package_named_service_is_reported(
    both: Installation, tmp_path: Path, layout: str
) -> None:
    other = tmp_path / "other" / layout
    other.parent.mkdir(parents=True)
    other.write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'other')!r}); "
        "from bnrecal_client.cli import main; sys.exit(main(['serve', '--port', '0']))"
    )
    done = both.run(both.python, "-c", code, cwd=tmp_path)
    assert done.returncode == 2
    assert f"the package 'service' in {tmp_path / 'other'}" in done.stderr
    assert "Traceback" not in done.stderr
