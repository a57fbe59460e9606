"""Helpers for API requests in tests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from service.storage.ledger.protocol import Ledger
from tests.support.service_fakes import GOOD_MODEL
from tests.support.waiting import until

SAFETENSORS = "application/vnd.safetensors"
ENDED = {"succeeded", "failed", "cancelled"}


def batch(seed: int = 0, samples: int = 2) -> NDArray[np.float32]:
    """Return a batch for the fake model: (samples, 3), float32."""
    return np.random.default_rng(seed).normal(size=(samples, 3)).astype(np.float32)


def safetensors(**arrays: NDArray[Any]) -> bytes:
    """Write arrays as safetensors."""
    names = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "uint16": "BF16"}
    table: dict[str, Any] = {}
    data = b""
    for name, array in arrays.items():
        content = array.tobytes()
        table[name] = {
            "dtype": names[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    return with_header(table, data)


def with_header(table: object, data: bytes) -> bytes:
    """Write a safetensors file with an arbitrary header."""
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + data


def npy(array: NDArray[Any]) -> bytes:
    """Write an array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def scratch_files(folder: Path) -> list[Path]:
    """Return the drafts and workspaces in a data folder."""
    return list((folder / "staging").glob("*/*"))


class Api:
    """The API of the server through an httpx client."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def upload_model(self, content: bytes = GOOD_MODEL) -> httpx.Response:
        kind = {"Content-Type": "application/x-onnx"}
        return self.http.post("/v1/models", content=content, headers=kind)

    def open(self, content: bytes = GOOD_MODEL, **options: Any) -> str:
        model = self.upload_model(content).json()["id"]
        response = self.http.post("/v1/recalibrations", json={"model": model, **options})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def put(
        self,
        name: str,
        index: int,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return self.http.put(
            f"/v1/recalibrations/{name}/batches/{index}",
            content=safetensors(x=batch(index)) if content is None else content,
            headers={"Content-Type": SAFETENSORS, **(headers or {})},
        )

    def put_source(
        self,
        name: str,
        index: int,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return self.http.put(
            f"/v1/recalibrations/{name}/source-batches/{index}",
            content=safetensors(x=batch(100 + index)) if content is None else content,
            headers={"Content-Type": SAFETENSORS, **(headers or {})},
        )

    def append(
        self, name: str, content: bytes, *, to: str = "batches", **headers: str
    ) -> httpx.Response:
        return self.http.post(
            f"/v1/recalibrations/{name}/{to}",
            content=content,
            headers={"Content-Type": SAFETENSORS, **headers},
        )

    def start(self, name: str, batches: int, **counts: int) -> httpx.Response:
        return self.http.post(
            f"/v1/recalibrations/{name}/start", json={"batches": batches, **counts}
        )

    def get(self, name: str, rest: str = "", **headers: str) -> httpx.Response:
        return self.http.get(f"/v1/recalibrations/{name}{rest}", headers=headers)

    def wait(self, name: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until a recalibration is in one of `states`, by default any final state."""
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(self.get(name).json())
            return found["state"] in (states or ENDED)

        until(reached, lambda: f"the state is {found['state']}", seconds=seconds)
        return found

    def finished(self, batches: int = 3, **options: Any) -> str:
        """Return the id of a succeeded recalibration."""
        name = self.open(**options)
        for index in range(batches):
            assert self.put(name, index).status_code == 201
        assert self.start(name, batches).status_code == 202
        assert self.wait(name)["state"] == "succeeded"
        return name


OpenLedger = Callable[[], Ledger]
"""Opens the ledger of a test's settings without a server."""

StartServer = Callable[..., Api]
"""Starts an in-process server; keyword arguments override settings."""
