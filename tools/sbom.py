"""Write bills of materials (CycloneDX) of the wheels and of images: `make sbom`.

    python -m tools.sbom [--image NAME …] [--output dist]

The dependencies of a wheel are ranges; its bill lists the versions that constraints.txt pins and
that were tested. That of an image lists what it contains: Python distributions and Debian packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
TOOL = ROOT / ".venv-deploy" / "bin" / "cyclonedx-py"
CLIENT = ROOT / "clients" / "python" / "pyproject.toml"
SERVER = ROOT / "pyproject.toml"
SITE = f"lib/python3.{sys.version_info.minor}/site-packages"
# The largest sets of extras of the server without torch, whose builds differ by processor.
EXTRAS = ("arrow", "plot")


def main() -> None:
    """Write the bills and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m tools.sbom")
    parser.add_argument(
        "--image", action="append", default=[], help="a local image, not the wheels"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder (dist)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    written = [write_image(image, options.output) for image in options.image]
    for path in written or write_wheels(options.output):
        sys.stdout.write(f"{path}\n")


def write_wheels(output: Path) -> list[Path]:
    """Write the bills of both wheels; return their paths."""
    client = tomllib.loads(CLIENT.read_text(encoding="utf-8"))["project"]["dependencies"]
    options = [word for extra in EXTRAS for word in ("--extra", extra)]
    server = _run(sys.executable, str(ROOT / "docker" / "requirements.py"), *options).splitlines()
    written = []
    for project, requirements in ((SERVER, server), (CLIENT, client)):
        name = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["name"]
        path = output / f"{name}.cdx.json"
        with tempfile.TemporaryDirectory(prefix="bnrecal-sbom-") as folder:
            python = _environment(Path(folder), requirements)
            _write(python, path, "--pyproject", str(project), "--mc-type", "library")
        written.append(path)
    return written


def write_image(image: str, output: Path) -> Path:
    """Write the bill of an image of the local container engine; return its path."""
    docker = os.environ.get("DOCKER", "docker")
    path = output / f"{image.replace('/', '-').replace(':', '-')}.cdx.json"
    with tempfile.TemporaryDirectory(prefix="bnrecal-sbom-") as name:
        folder = Path(name)
        python = _environment(folder, [])
        container = _run(docker, "create", image).strip()
        try:
            for source in ("/opt/bnrecal/lib", "/var/lib/dpkg/status", "/etc/os-release"):
                _run(docker, "cp", "--follow-link", f"{container}:{source}", str(folder))
        finally:
            _run(docker, "rm", container)
        (site,) = (folder / "lib").glob("python3.*/site-packages")
        (folder / "environment" / SITE / "image.pth").write_text(f"{site}\n", encoding="utf-8")
        _write(python, path)
        bill = json.loads(path.read_text(encoding="utf-8"))
        release = (folder / "os-release").read_text(encoding="utf-8")
        system = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)["ID"]
        status = (folder / "status").read_text(encoding="utf-8")
        bill["components"] += debian_packages(status, system.strip('"'))
        bill["metadata"]["component"] = {
            "type": "container",
            "name": image.partition(":")[0],
            "version": image.partition(":")[2] or "latest",
            "bom-ref": "image",
        }
        path.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    return path


def debian_packages(status: str, system: str) -> Iterator[dict[str, Any]]:
    """Yield a component for each installed package of a dpkg status file.

    Args:
        status: content of /var/lib/dpkg/status.
        system: the distribution, such as `debian`.
    """
    for paragraph in status.split("\n\n"):
        lines = (line.partition(": ") for line in paragraph.splitlines() if line[:1] != " ")
        fields = {name: value for name, _, value in lines}
        if fields.get("Status") != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        purl = (
            f"pkg:deb/{system}/{quote(name, '')}@{quote(version, '')}?arch={fields['Architecture']}"
        )
        yield {
            "type": "library",
            "name": name,
            "version": version,
            "purl": purl,
            "bom-ref": purl,
        }


def _environment(folder: Path, requirements: list[str]) -> Path:
    """Make an environment with requirements and what they require; return its interpreter."""
    target = folder / "environment"
    uv = Path(sys.executable).with_name("uv")
    _run(str(uv), "venv", "--quiet", "--python", sys.executable, str(target))
    python = target / "bin" / "python"
    if requirements:
        wanted = folder / "requirements.txt"
        wanted.write_text("\n".join(requirements), encoding="utf-8")
        words = ("--quiet", "--python", str(python), "--requirement", str(wanted))
        _run(str(uv), "pip", "install", *words, "--constraint", str(ROOT / "constraints.txt"))
    return python


def _write(python: Path, path: Path, *options: str) -> None:
    """Write the bill of an environment; the tool validates it."""
    words = ("--output-reproducible", "--output-format", "JSON", "--output-file", str(path))
    _run(str(TOOL), "environment", *options, *words, str(python))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
