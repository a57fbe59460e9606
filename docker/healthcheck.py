"""Check the health of the server in this container; exit with status 1 on any failure."""

# ruff: noqa: INP001 - a standalone script
from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 4.0  # less than the timeout of the health check in the Dockerfile
WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104 - compared with, not bound


def main() -> int:
    """Return 0 if GET /healthz returns 200, else 1."""
    host = os.environ.get("BNRECAL_HOST", "")
    port = int(os.environ.get("BNRECAL_PORT") or "8000")
    address = "127.0.0.1" if host in WILDCARDS else host
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        return 0 if connection.getresponse().status == http.client.OK else 1
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{address}:{port} does not respond: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
