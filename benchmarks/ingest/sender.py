"""A client process that PUTs batches and reports the time of each.

    python -m benchmarks.ingest.sender URL RECALIBRATION FIRST BYTES SECONDS CONNECTIONS

It uses HTTP of the standard library to keep its own cost low, and sends a digest as bnrecal_client
does. It waits for a line on standard input, so that all clients start at once.
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
    """Send the content under increasing indices until `stop`; return the seconds of each."""
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
        body = answer.read()
        if answer.status != http.HTTPStatus.CREATED:
            raise SystemExit(f"{answer.status}: {body!r}")
        taken.append(perf_counter() - began)
        index += 1
    connection.close()
    return taken


def main(words: list[str]) -> None:
    """Send for a given time over a given number of connections."""
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
