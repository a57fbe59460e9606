from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HARDENING = {
    "read_only: true": "--read-only",
    "/tmp:size=256m": "--tmpfs /tmp:size=256m",
    "- ALL": "--cap-drop ALL",
    "no-new-privileges:true": "--security-opt no-new-privileges",
    "pids_limit: 256": "--pids-limit 256",
}


def requirements(*options: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, str(ROOT / "docker" / "requirements.py"), *options],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {re.split(r"[^A-Za-z0-9-]", line)[0] for line in printed.splitlines()}


def test_image_requirements_exclude_torch() -> None:
    names = requirements("--build")
    assert {"numpy", "onnxruntime", "fastapi", "apsw", "httpx", "hatchling"} <= names
    assert not names & {"torch", "greenlet", "onnxscript", "ray", "bnrecal", "bnrecal-client"}


def test_images_can_export_traces_and_metrics() -> None:
    otlp = "opentelemetry-exporter-otlp-proto-http"
    assert {"opentelemetry-sdk", otlp} <= requirements()
    for name in ("compose.yaml", "compose.distributed.yaml"):
        text = (ROOT / "docker" / name).read_text(encoding="utf-8")
        assert "OTEL_EXPORTER_OTLP_ENDPOINT: ${OTEL_EXPORTER_OTLP_ENDPOINT:-}" in text


def test_extras_add_their_requirements() -> None:
    assert requirements("--extra", "torch") - requirements() == {"torch", "greenlet", "onnxscript"}
    assert requirements("--extra", "ray") - requirements() == {"ray"}


def test_every_image_is_tested_and_slim_is_the_default() -> None:
    stages = re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    assert stages[-1] == "slim"
    script = (ROOT / "docker" / "test.sh").read_text(encoding="utf-8")
    assert set(stages) == set(re.findall(r"^test_(\w+)\(\) {$", script, flags=re.MULTILINE))
    documented = (ROOT / "docs" / "container.md").read_text(encoding="utf-8")
    assert set(stages) == set(re.findall(r"^\| `(\w+)`", documented, flags=re.MULTILINE))


def test_dockerignore_allows_copied_files() -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE)
        for word in line.split()[:-1]
    }
    for path in copied:
        assert (ROOT / path).exists()
        assert any(path == known or path.startswith(f"{known}/") for known in allowed), path


def test_unprivileged_user_and_health_check() -> None:
    assert "USER 10001:10001" in DOCKERFILE
    assert "HEALTHCHECK" in DOCKERFILE
    assert "# syntax=" not in DOCKERFILE
    for instruction in ("ENTRYPOINT", "CMD"):
        assert re.search(rf"^{instruction} \[", DOCKERFILE, flags=re.MULTILINE)


@pytest.mark.parametrize(("in_compose", "in_test"), HARDENING.items())
def test_compose_and_test_share_hardening(in_compose: str, in_test: str) -> None:
    assert in_compose in (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    assert in_test in (ROOT / "docker" / "test.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({}, "unset"),
        ({"BNRECAL_TOKENS": "ab"}, "0.0.0.0"),
        ({"BNRECAL_TOKENS_FILE": "/x"}, "0.0.0.0"),
        ({"BNRECAL_TOKENS": "ab", "BNRECAL_HOST": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_entry_point_binds_all_only_with_tokens(given: dict[str, str], host: str) -> None:
    printed = subprocess.run(
        ["sh", ROOT / "docker" / "entrypoint.sh", "sh", "-c", "echo ${BNRECAL_HOST:-unset}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", **given},
    ).stdout
    assert printed.strip() == host
