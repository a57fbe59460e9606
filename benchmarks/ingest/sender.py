"""One client: a process that PUTs batches and tells how long each took.

    python -m benchmarks.ingest.sender URL RECALIBRATION FIRST BYTES SECONDS CONNECTIONS

It speaks plain HTTP through the standard library, so that its own work is small; the digest is sent
as bnrecal_client does it. It waits for a line on its standard input, so that all begin at once.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from urllib.parse import urlsplit

from benchmarks.ingest.content import body

__all__: list[str] = []

_STRIDE = 100_000


def _send(url: str, recalibration: str, first: int, content: bytes, stop: float) -> list[float]:
    """Send the same content under ever new indices; return the seconds that each took."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {
        "Content-Type": "application/vnd.safetensors",
        "Content-Digest": f"sha-256=:{digest}:",
    }
    connection = http.client.HTTPConnection(urlsplit(url).netloc, blocksize=1 << 20)
    taken = []
    index = first
    while (began := perf_counter()) < stop:
        path = f"/v1/recalibrations/{recalibration}/batches/{index}"
        connection.request("PUT", path, body=content, headers=headers)
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != http.HTTPStatus.CREATED:
            raise SystemExit(f"{answer.status}: {told!r}")
        taken.append(perf_counter() - began)
        index += 1
    connection.close()
    return taken


def main(words: list[str]) -> None:
    """Send for the given time over the given number of connections."""
    url, recalibration = words[:2]
    first, size, connections = int(words[2]), int(words[3]), int(words[5])
    content = body(size)
    print("ready", flush=True)
    sys.stdin.readline()
    began = perf_counter()
    stop = began + float(words[4])

    def work(number: int) -> list[float]:
        return _send(url, recalibration, first + number * _STRIDE, content, stop)

    with ThreadPoolExecutor(connections) as pool:
        taken = [seconds for found in pool.map(work, range(connections)) for seconds in found]
    print(json.dumps({"taken": taken, "seconds": perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1:])
