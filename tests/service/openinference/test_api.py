from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.settings import Settings
from tests.support.service_fakes import TWO_INPUTS, FakeExecutor
from tests.support.service_http import Api, StartServer, safetensors, scratch_files
from tests.support.service_oip import (
    as_binary,
    as_json,
    infer,
    infer_binary,
    samples,
    values,
)


def stored(settings: Settings, name: str) -> list[bytes]:
    """Return the tensor data of all stored batches, without the safetensors headers."""
    folder = settings.data_dir / f"recalibrations/{name}/batches"
    contents = [path.read_bytes() for path in folder.iterdir()]
    return sorted(one[8 + int.from_bytes(one[:8], "little") :] for one in contents)


def code(response: Any) -> tuple[int, str]:
    assert response.json()["error"] == response.json()["detail"] != ""
    return response.status_code, response.json()["code"]


def test_json_inference_stores_a_batch(api: Api, settings: Settings) -> None:
    name, x = api.open(), samples(0)
    response = infer(api, name, as_json("x", x), id="first")
    assert values(response) == {"batch_index": 0, "samples": 2, "new": True}
    found = response.json()
    assert (found["model_name"], found["model_version"], found["id"]) == (name, "1", "first")
    assert stored(settings, name) == [x.tobytes()]
    assert api.get(name).json()["batches"]["received"] == 1


def test_all_encodings_give_same_batch(api: Api) -> None:
    name, x = api.open(), samples(0)
    ways = [
        infer(api, name, as_json("x", x, flat=True)),
        infer(api, name, as_json("x", x, flat=False)),
        infer_binary(api, name, {"inputs": [as_binary("x", x)]}, x.tobytes()),
    ]
    assert [values(way)["batch_index"] for way in ways] == [0, 1, 2]
    digests = {one["sha256"] for one in api.get(name, "/batches").json()["items"]}
    assert len(digests) == 1


def test_json_and_binary_inputs_can_be_mixed(api: Api, settings: Settings) -> None:
    x, mask = samples(1), samples(2)
    for first, second in (("x", "mask"), ("mask", "x")):
        name = api.open(TWO_INPUTS)
        inputs = {"x": as_binary("x", x), "mask": as_json("mask", mask)}
        head = {"inputs": [inputs[first], inputs[second]]}
        assert values(infer_binary(api, name, head, x.tobytes()))["samples"] == 2
        arrays = {"x": x, "mask": mask}
        expected = arrays[first].tobytes() + arrays[second].tobytes()
        assert stored(settings, name) == [expected]


def test_body_of_several_blocks(api: Api, settings: Settings) -> None:
    name, x = api.open(), samples(3, 400_000)  # 4.8 MB: five blocks
    assert values(infer_binary(api, name, {"inputs": [as_binary("x", x)]}, x.tobytes()))
    assert stored(settings, name) == [x.tobytes()]


def test_inferences_are_recalibrated(api: Api, executor: FakeExecutor) -> None:
    put, fed = api.open(), api.open()
    for seed in range(3):
        content = safetensors(x=samples(seed))
        assert api.put(put, seed, content).status_code == 201
        infer(api, fed, as_json("x", samples(seed)))
    listed = [api.get(name, "/batches").json()["items"] for name in (put, fed)]
    assert [one["samples"] for one in listed[0]] == [one["samples"] for one in listed[1]]
    assert api.start(fed, 3).status_code == 202
    assert api.wait(fed)["state"] == "succeeded"
    assert executor.runs == 1


def test_repeated_id_counts_once(api: Api) -> None:
    name, x = api.open(), samples(0)
    first, second = (values(infer(api, name, as_json("x", x), id="same")) for _ in range(2))
    assert (first["new"], second["new"]) == (True, False)
    assert first["batch_index"] == second["batch_index"]
    again = infer_binary(api, name, {"id": "same", "inputs": [as_binary("x", x)]}, x.tobytes())
    assert values(again)["new"] is False


def test_id_with_different_content_is_new_batch(api: Api) -> None:
    name = api.open()
    for seed in range(3):
        found = values(infer(api, name, as_json("x", samples(seed)), id="1"))
        assert found == {"batch_index": seed, "samples": 2, "new": True}


@pytest.mark.parametrize("members", [{}, {"id": ""}, {"id": None}])
def test_requests_without_id_are_new_batches(api: Api, members: dict[str, Any]) -> None:
    name, x = api.open(), samples(0)
    found = [values(infer(api, name, as_json("x", x), **members)) for _ in range(2)]
    assert [one["batch_index"] for one in found] == [0, 1]


def test_irrelevant_members_are_ignored(api: Api) -> None:
    name = api.open()
    response = infer(
        api,
        name,
        as_json("x", samples(0)),
        outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}],
        parameters={"priority": 3, "binary_data_output": True},
        model_name="another",
    )
    assert values(response)["new"] is True


GOOD: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # inputs that the model does not accept
        ({"name": "y"}, "batch-input"),
        ({"datatype": "FP64"}, "batch-dtype"),
        ({"datatype": "INT32"}, "batch-dtype"),
        ({"shape": [1, 3, 1], "data": [1, 2, 3]}, "batch-shape"),
        ({"shape": [0, 3], "data": []}, "batch-shape"),
        ({"data": [1, 2, 1e300]}, "batch-not-finite"),
        # inconsistent or malformed requests
        ({"datatype": "BYTES", "data": ["a", "b", "c"]}, "preprocess-missing"),
        ({"datatype": "FP16"}, "batch-malformed"),
        ({"datatype": "float32"}, "batch-malformed"),
        ({"datatype": None}, "batch-malformed"),
        ({"shape": [2, 3]}, "batch-malformed"),
        ({"shape": [3]}, "batch-shape"),
        ({"shape": [1, -3]}, "batch-malformed"),
        ({"shape": [1, 3.0]}, "batch-malformed"),
        ({"shape": [True, 3]}, "batch-malformed"),
        ({"shape": "1,3"}, "batch-malformed"),
        ({"shape": [1 << 62, 1 << 62]}, "batch-malformed"),
        ({"data": [[1, 2], [3]]}, "batch-malformed"),
        ({"data": [1, 2, None]}, "batch-malformed"),
        ({"data": ["1", "2", "3"]}, "batch-malformed"),
        ({"data": [1, 2, {"a": 1}]}, "batch-malformed"),
        ({"data": [10**400, 2, 3]}, "batch-malformed"),
        ({"data": None}, "batch-malformed"),
        ({"data": "AAAA"}, "batch-malformed"),
        ({"parameters": {"binary_data_size": 12}}, "request-invalid"),  # no binary data follows
        ({"parameters": {"shared_memory_region": "r"}}, "batch-malformed"),
        ({"parameters": [1]}, "request-invalid"),
        ({"name": 7}, "request-invalid"),
    ],
)
def test_invalid_input_leaves_nothing(
    api: Api, settings: Settings, change: dict[str, Any], expected: str
) -> None:
    name = api.open()
    response = infer(api, name, GOOD | change)
    assert code(response) == (422, expected)
    assert scratch_files(settings.data_dir) == []
    assert values(infer(api, name, GOOD))["batch_index"] == 0


def test_nan_is_rejected(api: Api) -> None:
    name, x = api.open(), samples(0)
    x[1, 2] = np.nan
    text = json.dumps({"inputs": [as_json("x", x)]})  # Python writes NaN, as many clients do
    kind = {"Content-Type": "application/json"}
    in_json = api.http.post(f"/v2/models/{name}/infer", content=text, headers=kind)
    binary = infer_binary(api, name, {"inputs": [as_binary("x", x)]}, x.tobytes())
    for response in (in_json, binary):
        assert code(response) == (422, "batch-not-finite")
        assert response.json()["input"] == "x"


def test_error_lists_accepted_datatypes(api: Api) -> None:
    response = infer(api, api.open(), GOOD | {"datatype": "FLOAT"})
    assert "FP32" in response.json()["accepted"]
    assert "BYTES" not in response.json()["accepted"]


@pytest.mark.parametrize(
    ("head", "data", "expected"),
    [
        (b'{"inputs": [', b"", "request-invalid"),
        (b"[]", b"", "request-invalid"),
        (b"{}", b"", "request-invalid"),
        (b'{"inputs": []}', b"", "request-invalid"),
        (b'{"inputs": 3}', b"", "request-invalid"),
        (b'{"id": 3, "inputs": [{}]}', b"", "request-invalid"),
        (json.dumps({"id": "\ud800", "inputs": [GOOD]}).encode(), b"", "request-invalid"),
        (b"[" * 5000, b"", "request-invalid"),
        (b'{"a":' * 5000, b"", "request-invalid"),
        (b"\xff\xfe{}", b"", "request-invalid"),
        (json.dumps({"inputs": [GOOD, GOOD]}).encode(), b"", "request-invalid"),
        (json.dumps({"inputs": [GOOD]}).encode(), b"\0", "batch-malformed"),
    ],
)
def test_malformed_request_is_rejected(api: Api, head: bytes, data: bytes, expected: str) -> None:
    assert code(infer_binary(api, api.open(), head, data)) == (422, expected)


@pytest.mark.parametrize(
    ("announced", "sent"), [(24, 20), (24, 0), (24, 28), (20, 20), (-1, 24), ("24", 24)]
)
def test_binary_data_of_wrong_length(api: Api, announced: object, sent: int) -> None:
    name, x = api.open(), samples(0)
    head = as_binary("x", x) | {"parameters": {"binary_data_size": announced}}
    response = infer_binary(api, name, {"inputs": [head]}, x.tobytes().ljust(sent, b"\0")[:sent])
    assert code(response) == (422, "batch-malformed")
    assert api.get(name).json()["batches"]["received"] == 0


@pytest.mark.parametrize("length", ["x", "-1", "", "1e3", "9" * 30, "99999"])
def test_invalid_header_length(api: Api, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    path = f"/v2/models/{api.open()}/infer"
    response = api.http.post(path, content=json.dumps({"inputs": [GOOD]}), headers=headers)
    assert code(response) == (422, "request-invalid")


def test_json_limit(start_server: StartServer) -> None:
    api = start_server(infer_json_limit_bytes=2000)
    name, x = api.open(), samples(0, 1000)
    assert code(infer(api, name, as_json("x", x))) == (413, "too-large")
    long = as_binary("x", x) | {"note": "a" * 2000}
    assert code(infer_binary(api, name, {"inputs": [long]}, x.tobytes())) == (413, "too-large")
    found = infer_binary(api, name, {"inputs": [as_binary("x", x)]}, x.tobytes())
    assert values(found)["samples"] == 1000


@pytest.mark.parametrize("text", [b"[]," * 250_000, b'"",' * 20_000, b"{}," * 250_000])
def test_json_with_many_values_is_rejected(api: Api, text: bytes) -> None:
    body = b'{"inputs": [' + text[:-1] + b"]}"
    response = api.http.post(f"/v2/models/{api.open()}/infer", content=body)
    assert code(response) == (413, "too-large")


def test_oversized_binary_data_is_rejected(start_server: StartServer) -> None:
    api = start_server(batch_limit_bytes=1000)
    name, x = api.open(), samples(0, 1000)
    response = infer_binary(api, name, {"inputs": [as_binary("x", x)]}, x.tobytes()[:40])
    assert code(response) == (422, "batch-malformed")


def test_digest_covers_whole_request(api: Api) -> None:
    name, x = api.open(), samples(0)
    head = json.dumps({"inputs": [as_binary("x", x)]}).encode()
    right = base64.b64encode(hashlib.sha256(head + x.tobytes()).digest()).decode()
    wrong = base64.b64encode(bytes(32)).decode()
    for digest, expected in ((wrong, 400), (right, 200)):
        field = {"Content-Digest": f"sha-256=:{digest}:"}
        assert infer_binary(api, name, head, x.tobytes(), **field).status_code == expected
    assert api.get(name).json()["batches"]["received"] == 1


def test_sealed_recalibration_is_not_ready(api: Api) -> None:
    name = api.finished(batches=1)
    assert code(infer(api, name, GOOD)) == (409, "recalibration-not-open")
    assert code(api.http.get(f"/v2/models/{name}/ready")) == (409, "recalibration-not-open")


def test_health_and_metadata_routes(api: Api) -> None:
    name = api.open(TWO_INPUTS)
    assert api.http.get("/v2").json()["name"] == "bnrecal"
    assert api.http.get("/v2/health/live").json() == {"live": True}
    assert api.http.get("/v2/health/ready").json() == {"ready": True}
    for prefix in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
        assert api.http.get(f"{prefix}/ready").json() == {"name": name, "ready": True}
        metadata = api.http.get(prefix).json()
        shape = [-1, 3]
        assert metadata["inputs"] == [
            {"name": one, "datatype": "FP32", "shape": shape} for one in ("x", "mask")
        ]
        assert [one["name"] for one in metadata["outputs"]] == ["batch_index", "samples", "new"]
        config = api.http.get(f"{prefix}/config").json()
        assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": shape}
        assert config["max_batch_size"] == 0
    assert code(api.http.get(f"/v2/models/{name}/versions/2")) == (422, "request-invalid")
    for path in ("/v2/models/none", "/v2/models/none/ready", "/v2/models/none/config"):
        assert code(api.http.get(path)) == (404, "not-found")
    assert code(infer(api, "none", GOOD)) == (404, "not-found")


def test_readiness_without_workers(
    start_server: StartServer, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.errors import WorkerDiedError

    async def broken() -> dict[str, object]:
        raise WorkerDiedError("no worker could be started")

    monkeypatch.setattr(executor, "sandbox_status", broken)
    response = start_server().http.get("/v2/health/ready")
    assert code(response) == (503, "capacity-error")


def test_probes_need_no_token(start_server: StartServer, tmp_path: Path) -> None:
    del tmp_path
    api = start_server(tokens="0" * 64)
    assert api.http.get("/v2/health/live").status_code == 200
    assert api.http.get("/v2/health/ready").status_code == 200
    assert code(api.http.get("/v2")) == (401, "unauthenticated")


def test_content_encoding_is_rejected(api: Api) -> None:
    headers = {"Content-Encoding": "gzip"}
    response = api.http.post(f"/v2/models/{api.open()}/infer", content=b"", headers=headers)
    assert code(response) == (415, "media-type-unsupported")
