from __future__ import annotations

import base64
import hashlib
import shutil
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.batches.api import DIRECT_ROUTES
from service.repositories.usage import expected_files
from service.settings import Settings
from service.storage.ledger.maintenance import open_ledger
from tests.support import stored_files
from tests.support.service_fakes import GOOD_MODEL, TWO_INPUTS, FakeExecutor
from tests.support.service_http import (
    Api,
    StartServer,
    batch,
    npy,
    safetensors,
    scratch_files,
    with_header,
)
from tests.support.service_loop import serving

NPY = {"Content-Type": "application/x-npy"}


@pytest.fixture(params=["pack", "file"])
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Run each test with batches in packs and in files: responses must not differ."""
    packed = {"pack": settings.packed_batch_bytes, "file": 0}[request.param]
    return settings.model_copy(update={"packed_batch_bytes": packed})


def test_only_small_batches_are_packed(start_server: StartServer, settings: Settings) -> None:
    contents = [safetensors(x=batch(seed, samples)) for seed, samples in enumerate((2, 9, 3, 10))]
    api = start_server(packed_batch_bytes=len(contents[2]))
    name = api.open(keep_data=True)
    for index, content in enumerate(contents):
        assert api.put(name, index, content).status_code == 201
    found = stored_files.contents(settings, f"recalibrations/{name}/batches/")
    packs = [content for key, content in found.items() if key.endswith(".pack")]
    # A pack in the data folder grows; an object is written once.
    small = [contents[0], contents[2]]
    assert sorted(packs) == (sorted(small) if settings.blobs else [b"".join(small)])
    files = [content for key, content in found.items() if key.endswith(".safetensors")]
    assert sorted(files) == sorted([contents[1], contents[3]])
    assert len(found) == len(packs) + len(files)
    api.start(name, 4)
    assert api.wait(name)["state"] == "succeeded"
    # The fake result is the digest of model and batches in their order.
    whole_stream = GOOD_MODEL + b"".join(contents)
    assert api.get(name, "/model").json()["digest"] == hashlib.sha256(whole_stream).hexdigest()


@pytest.mark.parametrize("shape", [[1] * 60_000, [1 << 60] * 400], ids=["long", "huge"])
def test_excessive_shape_is_rejected(api: Api, shape: list[int]) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    response = api.put(api.open(), 0, with_header({"x": entry}, bytes(4)))
    assert (response.status_code, response.json()["code"]) == (422, "batch-malformed")
    assert "axes" in response.json()["detail"]


def test_body_of_unknown_length_is_stored(api: Api) -> None:
    name = api.open()
    content = safetensors(x=batch(0, 20_000))
    pieces = (content[start : start + 50_000] for start in range(0, len(content), 50_000))
    kind = {"Content-Type": "application/vnd.safetensors"}
    path = f"/v1/recalibrations/{name}/batches/0"
    sent = api.http.put(path, content=pieces, headers=kind)
    assert (sent.status_code, sent.json()["bytes"]) == (201, len(content))
    assert api.put(name, 0, content).status_code == 200


def test_stored_batch_is_described(api: Api) -> None:
    name = api.open()
    content = safetensors(x=batch(samples=5))
    response = api.put(name, 3, content)
    assert response.status_code == 201
    sha256 = hashlib.sha256(content)
    assert response.json() == {
        "index": 3,
        "samples": 5,
        "bytes": len(content),
        "sha256": sha256.hexdigest(),
    }
    # The header would describe the body of this response, not the batch (RFC 9530, section 2).
    assert "Content-Digest" not in response.headers
    assert api.get(name).json()["batches"]["samples"] == 5


def test_repeated_put_counts_once(api: Api) -> None:
    name = api.open()
    assert [api.put(name, 0).status_code for _ in range(3)] == [201, 200, 200]
    assert api.get(name).json()["batches"]["received"] == 1


def test_different_content_is_a_conflict(api: Api, settings: Settings) -> None:
    name = api.open()
    first = api.put(name, 0).json()
    response = api.put(name, 0, safetensors(x=batch(99)))
    assert (response.status_code, response.json()["code"]) == (409, "batch-conflict")
    assert response.json()["batch"] == 0
    assert api.get(name, "/batches").json()["items"] == [first]
    assert _stored(settings, name) == first["bytes"]


def test_same_content_at_two_indices_counts_twice(api: Api) -> None:
    name = api.open()
    for index in (0, 1):
        assert api.put(name, index, safetensors(x=batch(7))).status_code == 201
    assert api.get(name).json()["batches"]["received"] == 2


def test_append_uses_next_index(api: Api) -> None:
    name = api.open()
    api.put(name, 4)
    response = api.append(name, npy(batch(1)), **NPY)
    assert (response.status_code, response.json()["index"]) == (201, 5)
    assert response.headers["Location"] == f"/v1/recalibrations/{name}/batches/5"


def test_repeated_append_counts_twice(api: Api) -> None:
    name = api.open()
    for _ in range(2):
        assert api.append(name, safetensors(x=batch())).status_code == 201
    assert api.get(name).json()["batches"]["received"] == 2


def test_repeated_append_with_key_counts_once(api: Api, settings: Settings) -> None:
    name = api.open()
    key = {"Idempotency-Key": "k"}
    first = api.append(name, safetensors(x=batch()), **key)
    again = api.append(name, safetensors(x=batch()), **key)
    other = api.append(name, safetensors(x=batch(1)), **key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert _stored(settings, name) == first.json()["bytes"]


def test_append_replay_after_sealing(api: Api) -> None:
    name, content, other = api.open(), safetensors(x=batch(0)), safetensors(x=batch(1))
    first = api.append(name, content, **{"Idempotency-Key": "a"})
    api.start(name, 1)
    api.wait(name)
    again = api.append(name, content, **{"Idempotency-Key": "a"})
    assert (again.status_code, again.content) == (200, first.content)
    reused = api.append(name, other, **{"Idempotency-Key": "a"})
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency-key-reused")
    for headers in ({"Idempotency-Key": "b"}, {}):
        late = api.append(name, content, **headers)
        assert (late.status_code, late.json()["code"]) == (409, "recalibration-not-open")


def test_sealed_stream_accepts_only_replays(api: Api) -> None:
    name = api.finished(batches=2)
    assert api.put(name, 1).status_code == 200
    response = api.put(name, 2)
    assert (response.status_code, response.json()["code"]) == (409, "recalibration-not-open")
    appended = api.append(name, safetensors(x=batch()))
    assert (appended.status_code, appended.json()["code"]) == (409, "recalibration-not-open")


def test_batches_are_listed_by_index(api: Api) -> None:
    name = api.open()
    for index in (5, 0, 3):
        api.put(name, index)
    first = api.get(name, "/batches?limit=2").json()
    rest = api.get(name, f"/batches?limit=2&after={first['next']}").json()
    assert [one["index"] for one in first["items"] + rest["items"]] == [0, 3, 5]
    assert rest["next"] is None


def _nan(index: int) -> Any:
    array = batch()
    array.flat[index] = np.nan
    return array


@pytest.mark.parametrize(
    ("content", "code", "member"),
    [
        # a wrong name, so that the right one is missing
        (safetensors(y=batch()), "batch-input", {"input": "y"}),
        # a wrong element type
        (safetensors(x=batch().astype(np.float64)), "batch-dtype", {"input": "x"}),
        # a wrong rank
        (safetensors(x=batch()[None]), "batch-shape", {"input": "x"}),
        # a wrong number of channels
        (safetensors(x=batch()[:, :2].copy()), "batch-shape", {"input": "x"}),
        # no samples
        (safetensors(x=batch()[:0]), "batch-shape", {"input": "x"}),
        # NaN as the last value
        (safetensors(x=_nan(-1)), "batch-not-finite", {"input": "x", "batch": 7}),
        # not safetensors
        (b"PK\x03\x04 this is a zip", "batch-malformed", {}),
        (b"", "batch-malformed", {}),
        # one byte too few, one byte too many
        (safetensors(x=batch())[:-1], "batch-malformed", {"input": "x"}),
        (safetensors(x=batch()) + b"!", "batch-malformed", {}),
        # a header that announces more than the limit
        (
            with_header(
                {"x": {"dtype": "F32", "shape": [1 << 50, 3], "data_offsets": [0, 12 << 50]}}, b""
            ),
            "batch-malformed",
            {},
        ),
    ],
)
def test_invalid_batch_leaves_nothing(
    api: Api, settings: Settings, content: bytes, code: str, member: dict[str, Any]
) -> None:
    name = api.open()
    response = api.put(name, 7, content)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, code)
    assert {key: problem[key] for key in member} == member
    assert api.get(name, "/batches").json()["items"] == []
    assert api.get(name).json()["batches"]["received"] == 0
    assert _stored(settings, name) == 0
    assert scratch_files(settings.data_dir) == []


def test_npy_needs_model_with_one_input(api: Api) -> None:
    name = api.open(TWO_INPUTS)
    response = api.put(name, 0, npy(batch()), NPY)
    assert (response.status_code, response.json()["code"]) == (422, "batch-malformed")
    both = safetensors(x=batch(0), mask=batch(1))
    assert api.put(name, 0, both).status_code == 201


def test_sample_counts_must_match(api: Api) -> None:
    name = api.open(TWO_INPUTS)
    response = api.put(name, 0, safetensors(x=batch(samples=2), mask=batch(samples=3)))
    assert response.json()["code"] == "batch-shape"


def test_fortran_order_is_accepted(api: Api) -> None:
    name = api.open()
    content = npy(np.asfortranarray(batch(samples=4)))
    assert b"'fortran_order': True" in content
    assert api.put(name, 0, content, NPY).json()["samples"] == 4


def test_pickle_is_rejected(api: Api) -> None:
    name = api.open()
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x80\x04."
    response = api.put(name, 0, content, NPY)
    assert (response.status_code, response.json()["code"]) == (422, "batch-malformed")
    assert "pickle" in response.json()["detail"]


def test_digest_mismatch_is_not_stored(api: Api, settings: Settings) -> None:
    name = api.open()
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    response = api.put(name, 0, headers={"Content-Digest": f"sha-512=:AA==:, sha-256=:{digest}:"})
    assert (response.status_code, response.json()["code"]) == (400, "digest-mismatch")
    assert _stored(settings, name) == 0


def test_matching_digest_is_stored(api: Api) -> None:
    name = api.open()
    content = safetensors(x=batch())
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert api.put(name, 0, content, {"Content-Digest": f"sha-256=:{digest}:"}).status_code == 201


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
def test_content_encoding_is_rejected(api: Api, encoding: str) -> None:
    response = api.put(api.open(), 0, headers={"Content-Encoding": encoding})
    assert (response.status_code, response.json()["code"]) == (415, "media-type-unsupported")


def test_unknown_content_type_is_rejected(api: Api) -> None:
    response = api.put(api.open(), 0, headers={"Content-Type": "application/x-pickle"})
    assert (response.status_code, response.json()["code"]) == (415, "media-type-unsupported")


@pytest.mark.parametrize("index", ["-1", "10000000", "x", "1e3"])
def test_invalid_index_is_rejected(api: Api, index: str) -> None:
    path = f"/v1/recalibrations/{api.open()}/batches/{index}"
    kind = {"Content-Type": "application/vnd.safetensors"}
    response = api.http.put(path, content=safetensors(x=batch()), headers=kind)
    assert (response.status_code, response.json()["code"]) == (422, "request-invalid")


def test_largest_index_is_accepted(api: Api) -> None:
    assert api.put(api.open(), 9_999_999).status_code == 201


def test_oversized_batch_is_rejected(start_server: StartServer) -> None:
    api = start_server(batch_limit_bytes=64)
    response = api.put(api.open(), 0)
    assert (response.status_code, response.json()["code"]) == (413, "too-large")
    assert response.headers["Connection"] == "close"


def test_byte_quota(start_server: StartServer, settings: Settings) -> None:
    size = len(safetensors(x=batch()))
    api = start_server(recalibration_limit_bytes=2 * size + 1, recalibration_limit_batches=3)
    name = api.open()
    assert [api.put(name, index).status_code for index in range(3)] == [201, 201, 413]
    assert api.put(name, 2).json()["code"] == "quota-exceeded"
    assert _stored(settings, name) == 2 * size


def test_batch_quota(start_server: StartServer) -> None:
    api = start_server(recalibration_limit_batches=2)
    name = api.open()
    assert [api.put(name, index).status_code for index in range(3)] == [201, 201, 413]


def test_full_disk_rejects_only_uploads(start_server: StartServer, settings: Settings) -> None:
    first = start_server()
    name = first.open()
    assert first.put(name, 0).status_code == 201
    done = first.finished(keep_data=True)  # its files are not removed while they are copied
    copy = shutil.copytree(settings.data_dir, settings.data_dir.parent / "low")
    api = start_server(data_dir=copy, disk_reserve_bytes=1 << 62)
    for response in (
        api.put(name, 1),
        api.upload_model(b"another model"),
        api.append(name, safetensors(x=batch(9))),
    ):
        assert (response.status_code, response.json()["code"]) == (507, "storage-full")
        assert response.json()["retryable"]
    assert scratch_files(copy) == []
    assert api.put(name, 0).status_code == 200  # already stored
    assert api.get(done, "/model").status_code == 200
    assert api.start(name, 1).status_code == 202
    assert api.wait(name)["state"] == "succeeded"


def test_deletion_frees_total_quota(
    start_server: StartServer,
) -> None:
    size = len(safetensors(x=batch()))
    api = start_server(total_limit_bytes=size + 100)
    first, second = api.open(), api.open()
    assert api.put(first, 0).status_code == 201
    response = api.put(second, 0)
    assert (response.status_code, response.json()["code"]) == (507, "storage-full")
    assert response.json()["retryable"] is True
    api.http.delete(f"/v1/recalibrations/{first}")
    assert api.put(second, 0).status_code == 201


def _stored(settings: Settings, name: str) -> int:
    """Return the total size of the files of a recalibration's batches, in bytes.

    In an object store, what was stored before its batch was rejected stays until it is old. There
    only what rows refer to counts.
    """
    found = stored_files.sizes(settings, f"recalibrations/{name}/batches/")
    if not settings.blobs:
        return sum(found.values())
    with open_ledger(settings.data_dir, settings.ledger) as ledger:
        held = ledger.read(expected_files)
    assert held.keys() & found.keys() == {key for key in held if f"/{name}/" in key}
    return sum(one.bytes for key in held.keys() & found.keys() for one in held[key])


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # two servers, two ledgers
@pytest.mark.parametrize(
    ("index", "changes", "status"),
    [
        ("7", {}, 201),
        ("07", {}, 201),
        ("7", {"headers": {"Content-Digest": "sha-256=:AAAA:"}}, 400),
        ("7", {"headers": {"Content-Type": "text/plain"}}, 415),
        ("7", {"content": b"short"}, 422),
        ("x", {}, 422),
        ("-1", {}, 422),
        ("10000000", {}, 422),
    ],
)
def test_direct_route_matches_framework_route(
    settings: Settings,
    executor: FakeExecutor,
    index: str,
    changes: dict[str, Any],
    status: int,
) -> None:
    headers = {"Content-Type": "application/vnd.safetensors"} | changes.get("headers", {})
    body = changes.get("content", safetensors(x=batch(0)))

    def responses(app: FastAPI) -> list[object]:
        found: list[object] = []
        with serving(app) as http:
            api = Api(http)
            name = api.open()
            for path in [f"/v1/recalibrations/{name}/batches/{index}"] * 2 + [
                f"/v1/recalibrations/unknown/batches/{index}"
            ]:
                response = api.http.put(path, content=body, headers=headers)
                document = response.json()
                document.pop("instance", None)
                shown = {k: v for k, v in response.headers.items() if k != "x-request-id"}
                found += [response.status_code, document, shown]
            samples = api.http.get("/metrics").text.splitlines()
            found += [line for line in samples if line.startswith("bnrecal_requests_total{")]
        return found

    direct, general = (
        create_app(
            settings.model_copy(update={"data_dir": settings.data_dir / name}), executor=executor
        )
        for name in ("direct", "general")
    )
    for route in DIRECT_ROUTES:
        general.router.routes.remove(route)
    found = responses(direct)
    assert found == responses(general)
    assert found[0] == status
