"""The bills of materials name what is installed, and are valid CycloneDX."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment_tools import ROOT, run_tool
from tools.sbom import debian_packages

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1]).read()
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
sys.exit(str(fault) if fault else 0)
"""
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u13
Description: the C library
 Version: not a field

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: passwd
Status: install ok installed
Architecture: amd64
Version: 1:4.13+dfsg1-1~x
"""


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bills")
    command = [sys.executable, "-m", "tools.sbom", "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {Path(line).name.partition(".")[0]: Path(line) for line in done.stdout.splitlines()}


def components(path: Path) -> dict[str, dict[str, Any]]:
    listed = json.loads(path.read_text())["components"]
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one for one in listed}


def required(project: str, *extras: str) -> set[str]:
    read = tomllib.loads((ROOT / project).read_text())["project"]
    lines = list(read["dependencies"])
    for extra in extras:
        lines += read["optional-dependencies"][extra]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in lines}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names} - {"bnrecal-client"}


def test_every_dependency_has_its_pinned_version(bills: dict[str, Path]) -> None:
    assert bills.keys() == {"bnrecal", "bnrecal-client"}
    server, client = components(bills["bnrecal"]), components(bills["bnrecal-client"])
    extras = ("server", "images", "postgres", "objects", "arrow", "plot")
    assert required("pyproject.toml", *extras) <= server.keys()
    assert required("clients/python/pyproject.toml") <= client.keys()
    assert {"protobuf", "pydantic-core"} <= server.keys()  # required by what is required
    assert "torch" not in server
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for name, one in {**client, **server}.items():
        assert one["version"] == pinned[name], name
        assert one["purl"] == f"pkg:pypi/{name}@{one['version']}"
    assert all(one.get("licenses") for one in client.values())


def test_bills_are_valid_and_reproducible(bills: dict[str, Path], tmp_path: Path) -> None:
    for name, path in bills.items():
        assert run_tool("python", "-c", VALIDATE, path).returncode == 0
        root = json.loads(path.read_text())["metadata"]["component"]
        assert (root["name"], root["type"]) == (name, "library")
        assert "timestamp" not in json.loads(path.read_text())["metadata"]
    broken = json.loads(bills["bnrecal-client"].read_text())
    broken["components"][0]["typ"] = broken["components"][0].pop("type")
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    assert run_tool("python", "-c", VALIDATE, tmp_path / "broken.json").returncode == 1


def test_installed_debian_packages_are_components() -> None:
    libc, passwd = debian_packages(STATUS, "debian")
    assert libc["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64"
    assert passwd["purl"] == "pkg:deb/debian/passwd@1%3A4.13%2Bdfsg1-1~x?arch=amd64"


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tools.sbom",
        "--image",
        "bnrecal:none",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "DOCKER": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("false failed")
