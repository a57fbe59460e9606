"""Run schemathesis on the whole OpenAPI document against a live server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Arbitrary bytes match the schema but are not a model; a schema cannot express the rules of a form,
# nor that the last index of an import is limited.
_IMPORTS = "/v1/recalibrations/{recalibration}/"
BODIES = (
    *("/v1/models", "/v1/recalibrate"),
    *(f"{_IMPORTS}{name}:import" for name in ("batches", "source-batches")),
)
_CONFIG = """
[[operations]]
include-path = "{path}"
checks.positive_data_acceptance.enabled = false
"""
# An event stream does not end.
ENDLESS = "/events$"


def check(url: str, folder: Path, *, examples: int, phases: str, seed: int = 0) -> str | None:
    """Return the findings of schemathesis, or None.

    Args:
        url: URL of a server without tokens.
        folder: folder for the configuration.
        examples: number of random requests per operation.
        phases: value of `st run --phases`.
        seed: seed of the random requests.
    """
    config = folder / "schemathesis.toml"
    config.write_text("".join(_CONFIG.format(path=path) for path in BODIES))
    command = Path(sys.executable).parent / "st"
    words = ["--config-file", str(config), "run", f"{url}/openapi.json"]
    words += ["--max-examples", str(examples), "--phases", phases, "--seed", str(seed)]
    words += ["--exclude-path-regex", ENDLESS, "--continue-on-failure"]
    words += ["--generation-database", "none", "--suppress-health-check", "all"]
    done = subprocess.run(
        [command, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stdout + done.stderr
