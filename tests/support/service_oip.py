"""Requests of the Open Inference Protocol for tests, written from the specification."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.support.service_http import Api

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


def as_json(name: str, array: NDArray[Any], *, flat: bool = True) -> dict[str, Any]:
    """Write an input with its data in the JSON."""
    data = array.ravel().tolist() if flat else array.tolist()
    datatype = DATATYPES[str(array.dtype)]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def as_binary(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """Write an input whose data follows the JSON."""
    found = {key: value for key, value in as_json(name, array).items() if key != "data"}
    return found | {"parameters": {"binary_data_size": array.nbytes}}


def framed(*images: bytes) -> bytes:
    """Write images in the binary form of BYTES: each preceded by its length."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in images)


def images_in_json(name: str, *images: bytes) -> dict[str, Any]:
    """Write an input of images with its data in the JSON."""
    data = [base64.b64encode(one).decode() for one in images]
    return {"name": name, "datatype": "BYTES", "shape": [len(images)], "data": data}


def images_ahead(name: str, *images: bytes) -> dict[str, Any]:
    """Write an input of images that follow the JSON."""
    size = {"binary_data_size": len(framed(*images))}
    return {"name": name, "datatype": "BYTES", "shape": [len(images)], "parameters": size}


def infer(api: Api, name: str, *inputs: dict[str, Any], **members: Any) -> httpx.Response:
    """Send a request in JSON."""
    return api.http.post(f"/v2/models/{name}/infer", json={"inputs": list(inputs), **members})


def infer_binary(
    api: Api, name: str, head: dict[str, Any] | bytes, data: bytes, **headers: str
) -> httpx.Response:
    """Send a request with binary data after its JSON."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    return api.http.post(
        f"/v2/models/{name}/infer", content=text + data, headers={**length, **headers}
    )


def values(response: httpx.Response) -> dict[str, Any]:
    """Return the outputs of a response by name."""
    assert response.status_code == 200, response.text
    return {one["name"]: one["data"][0] for one in response.json()["outputs"]}


def samples(seed: int, count: int = 2) -> NDArray[np.float32]:
    """Return inputs for the fake model: (count, 3), float32."""
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
