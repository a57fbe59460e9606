"""Ask the server in this container whether it is alive; any trouble ends with status 1."""

# ruff: noqa: INP001 - a script of its own
from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 4.0  # below the limit that the Dockerfile gives the health check
WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound


def main() -> int:
    """Return 0 when GET /healthz answers 200."""
    host = os.environ.get("BNRECAL_HOST", "")
    port = int(os.environ.get("BNRECAL_PORT") or "8000")
    address = "127.0.0.1" if host in WILDCARDS else host
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == http.client.OK else 1
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{address}:{port} does not answer: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
