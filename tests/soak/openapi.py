"""schemathesis over the whole OpenAPI document, against a live server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A body of octets fits any schema and is still no model; a form needs what no schema can say.
BODIES = ("/v1/models", "/v1/recalibrate")
_CONFIG = """
[[operations]]
include-path = "{path}"
checks.positive_data_acceptance.enabled = false
"""
# A stream of events has no end that a check could wait for.
ENDLESS = "/events$"


def check(url: str, folder: Path, *, examples: int, phases: str, seed: int = 0) -> str | None:
    """Return what schemathesis found; None when it found nothing.

    Args:
        url: of a server without a token.
        folder: for the configuration.
        examples: random requests for each operation.
        phases: as `st run --phases` takes them.
        seed: of the random requests.
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
