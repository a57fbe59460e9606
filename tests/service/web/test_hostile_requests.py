"""Malicious and unusual requests: none causes an internal error."""

from __future__ import annotations

import httpx
import pytest

from service import problems
from tests.support.service_http import SAFETENSORS, Api

LONG = "9" * 5000


def error_code(response: httpx.Response) -> str:
    """Return the error code of a response, empty for a success; it must not be a server error."""
    assert response.status_code < 500, response.text
    if response.status_code < 400 or not response.content:
        return ""
    code: str = response.json()["code"]
    assert problems.TABLE[code].status == response.status_code
    return code


def short_id(value: str) -> str:
    """Return the id of a case."""
    return value[:40]


def headers(**values: str) -> dict[bytes, bytes]:
    """Return headers as raw Latin-1 bytes, which client libraries would reject."""
    found = {name.replace("_", "-").encode(): text for name, text in values.items()}
    return {name: text.encode("latin-1") for name, text in found.items()}


@pytest.mark.parametrize(
    "options",
    [
        f'"memory_bytes": {LONG}',
        f'"memory_bytes": {LONG[:400]}',
        '"memory_bytes": 1e400',
        '"memory_bytes": NaN',
        f'"estimator": {{"name": "prior", "samples": {LONG[:400]}}}',
        f'"estimator": {{"name": "prior", "samples": {LONG}}}',
        '"estimator": {"name": "prior", "samples": 1e999}',
        f'"estimator": {{"name": "momentum", "momentum": {LONG[:400]}}}',
        f'"preprocess": {{"resize": {LONG[:400]}}}',
        '"preprocess": {"resize": 1e300}',
        f'"preprocess": {{"scale": {LONG[:400]}}}',
        '"preprocess": {"mean": [NaN]}',
        '"preprocess": {"std": [1e-400, 1, 1]}',
        '"layers": [""]',
        '"layers": ["!"]',
        '"layers": ["[["]',
        '"layers": ["\\u0000"]',
    ],
    ids=short_id,
)
def test_extreme_options_are_rejected(api: Api, options: str) -> None:
    model = api.upload_model().json()["id"]
    content = f'{{"model": "{model}", {options}}}'
    kind = {"Content-Type": "application/json"}
    created = error_code(api.http.post("/v1/recalibrations", content=content, headers=kind))
    form = {"model": b"good model", "data": b"no array", "options": f"{{{options}}}".encode()}
    at_once = error_code(api.http.post("/v1/recalibrate", files=form))
    assert at_once
    # Memory has only a lower bound.
    assert created or options == f'"memory_bytes": {LONG[:400]}'


def test_unusual_ranges(api: Api) -> None:
    name = api.finished()
    path = f"/v1/recalibrations/{name}/model"
    etag = api.http.get(path).headers["ETag"]
    for given in (
        *(
            "bytes=0-0,2-3",
            "bytes=-0",
            "bytes=5-2",
            "bytes=",
            "items=0-1",
            "bytes=a-b",
            "bytes=--1",
        ),
        *(f"bytes={LONG}-", f"bytes=-{LONG}", f"bytes=0-{LONG}", "bytes=" + "0-0," * 2000),
        *("bytes= 0 - 1", "BYTES=0-1", "bytes=0-1;q=1", "bytes=\xb2-\xb3"),
    ):
        for condition in ("", etag, '"x"', f"W/{etag}", "Sat, 21 Nov 2026 20:00:00 GMT"):
            asked = headers(Range=given) | (headers(If_Range=condition) if condition else {})
            response = api.http.get(path, headers=asked)
            assert error_code(response) in {"", "range-unsatisfiable"}
            assert response.status_code in {200, 206, 416}


def test_unusual_entity_tags(api: Api) -> None:
    path = f"/v1/recalibrations/{api.finished()}/model"
    etag = api.http.get(path).headers["ETag"]
    for given in (
        etag,
        "*",
        f"W/{etag}",
        f'"a", {etag}',
        f'"a",,{etag}',
        '"a' * 500,
        "",
        ",",
        '"\xff"',
    ):
        for name in ("If_None_Match", "If_Match"):
            assert error_code(api.http.get(path, headers=headers(**{name: given}))) in {
                "",
                "precondition-failed",
            }


def test_unusual_paths_and_queries(api: Api) -> None:
    name = api.open()
    for path in (
        *("/v1/models/..%2f..%2fetc", "/v1/models/%00", "/v1/models/%ff", "//v1/models"),
        *("/v1/recalibrations/%F0%9F%98%80", "/v1/recalibrations/" + "a" * 60_000),
        *(f"/v1/recalibrations?limit={LONG}", f"/v1/recalibrations/{name}/batches?after={LONG}"),
        *("/v1/models?after=%00", "/v1/models?after=%ff", "/v1/models?after=%D9%A1"),
        *("/v1/models?limit=1&limit=2", "/v1/models?" + "a=b&" * 15_000),
        *(f"/v1/recalibrations/{name}/batches/{LONG}", f"/v1/recalibrations/{name}?wait=1e-320"),
    ):
        for method in ("GET", "HEAD", "DELETE", "POST"):
            error_code(api.http.request(method, path))
    for index in (LONG, "-1", "1e3", "%00", "0x1", "+1", "01", "%D9%A3", "1%20", "10000000"):
        kind = {"Content-Type": SAFETENSORS}
        path = f"/v1/recalibrations/{name}/batches/{index}"
        assert error_code(api.http.put(path, content=b"x", headers=kind))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency_Key", "\xe9"),
        ("Idempotency_Key", " "),
        ("Content_Digest", "sha-256=:x:"),
        ("Content_Digest", ",,,"),
        ("Content_Digest", "a" * 60_000),
        ("Content_Type", "\xff"),
        ("Accept", f"*/*;q={LONG}"),
        ("Accept", "text/html;q=nan,application/json;q=inf"),
        ("Accept", "," * 60_000),
        ("X_Request_Id", "\xff" * 300),
        ("Last_Event_ID", "\xb2"),
        ("Last_Event_ID", LONG),
        ("Inference_Header_Content_Length", LONG),
        ("Inference_Header_Content_Length", "\xb2"),
    ],
    ids=short_id,
)
def test_unusual_headers(api: Api, name: str, value: str) -> None:
    one = f"/v1/recalibrations/{api.open()}"
    given = headers(Content_Type=SAFETENSORS) | headers(**{name: value})
    for method, path in (
        *(("POST", f"{one}/batches"), ("PUT", f"{one}/batches/0"), ("POST", "/v1/models")),
        *(("POST", f"/v2/models/{one[19:]}/infer"), ("POST", "/v1/recalibrate")),
        *(("POST", "/v1/recalibrations"), ("GET", f"{one}/report")),
    ):
        error_code(api.http.request(method, path, content=b"{}", headers=given))
    if name == "Last_Event_ID":
        assert error_code(api.http.get(f"{one}/events", headers=given)) == "request-invalid"
