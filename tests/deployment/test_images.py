"""Dockerfile and compose files, checked by hadolint and by Docker Compose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment_tools import ROOT, run_tool

SINGLE = ROOT / "docker" / "compose.yaml"
DISTRIBUTED = ROOT / "docker" / "compose.distributed.yaml"
VARIABLES = {"BNRECAL_TOKENS": "0" * 64, "POSTGRES_PASSWORD": "secret", "S3_SECRET_KEY": "key"}
HARDENING = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "pids_limit": 256,
    "init": True,
}


def test_hadolint_finds_nothing() -> None:
    done = run_tool("hadolint", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "rule"),
    [("RUN cd /data", "DL3003"), ("RUN pip install x", "DL3013"), ("USER root", "DL3002")],
)
def test_hadolint_finds_planted_faults(line: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(f"{(ROOT / 'Dockerfile').read_text()}\n{line}\n")
    done = run_tool("hadolint", path)
    assert done.returncode == 1
    assert rule in done.stdout


def composed(path: Path) -> dict[str, Any]:
    done = run_tool("docker-compose", "--file", path, "config", "--format", "json", **VARIABLES)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_compose_files_are_valid_and_hardened() -> None:
    single, distributed = composed(SINGLE), composed(DISTRIBUTED)
    assert single.keys() == {"bnrecal"}
    assert distributed.keys() == {"api", "runner", "postgres", "s3", "bucket"}
    for service in (single["bnrecal"], distributed["api"], distributed["runner"]):
        assert service.items() >= HARDENING.items()
        assert service["build"]["target"] == "slim"


def test_distributed_servers_run_nothing_and_share_everything() -> None:
    services = composed(DISTRIBUTED)
    api, runner = services["api"]["environment"], services["runner"]["environment"]
    assert services["api"]["deploy"]["replicas"] == 2
    assert api["BNRECAL_MAX_CONCURRENT_RUNS"] == "0"
    for name in ("BNRECAL_LEDGER", "BNRECAL_BLOBS", "AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY"):
        assert api[name] == runner[name]
    assert api["BNRECAL_LEDGER"] == "postgresql://bnrecal:secret@postgres/bnrecal"
    assert services["runner"]["command"][-1] == "--runner"
    assert "ports" not in services["runner"]
    assert {port["host_ip"] for port in services["api"]["ports"]} == {"127.0.0.1"}
    assert not any("ports" in services[name] for name in ("postgres", "s3"))


@pytest.mark.parametrize("missing", VARIABLES)
def test_passwords_are_required(missing: str) -> None:
    given = {name: value for name, value in VARIABLES.items() if name != missing}
    done = run_tool("docker-compose", "--file", DISTRIBUTED, "config", **given)
    assert done.returncode != 0
    assert missing in done.stderr


def test_planted_fault_in_a_compose_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(DISTRIBUTED.read_text().replace("read_only: true", "readonly: true"))
    done = run_tool("docker-compose", "--file", path, "config", **VARIABLES)
    assert done.returncode != 0
    assert "readonly" in done.stderr
