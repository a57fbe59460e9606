"""The server conforms to its OpenAPI document; the short form of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.soak import openapi
from tests.support.service_process import running


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "data", worker_threads=1) as server:
        found = openapi.check(server.url, tmp_path, examples=2, phases="coverage")
        assert found is None, found
        assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 200
