from __future__ import annotations

import json

import pytest

from tests.support.service_http import Api


@pytest.fixture
def name(api: Api) -> str:
    return api.finished()


def test_headers_of_a_model(api: Api, name: str) -> None:
    response = api.get(name, "/model")
    assert response.headers["Content-Type"] == "application/x-onnx"
    assert response.headers["Content-Digest"].startswith("sha-256=:")
    assert f"{name}-folded.onnx" in response.headers["Content-Disposition"]
    etag = response.headers["ETag"]
    assert api.get(name, "/model", **{"If-None-Match": etag}).status_code == 304
    assert api.get(name, "/model", **{"If-None-Match": '"other"'}).status_code == 200


def test_if_match(api: Api, name: str) -> None:
    etag = api.get(name, "/model").headers["ETag"]
    for known in (etag, "*", f'"older", {etag}'):
        assert api.get(name, "/model", **{"If-Match": known}).status_code == 200
    response = api.get(name, "/model", **{"If-Match": '"older"', "Range": "bytes=3-"})
    assert (response.status_code, response.json()["code"]) == (412, "precondition-failed")
    assert response.headers["ETag"] == etag


@pytest.mark.parametrize("rest", ["/model", "/statistics", "/report", "", "/batches"])
def test_head_returns_headers_of_get(api: Api, name: str, rest: str) -> None:
    get = api.get(name, rest)
    head = api.http.head(f"/v1/recalibrations/{name}{rest}")
    assert (head.status_code, head.content) == (200, b"")
    ours = {"X-Request-Id", "Date"}
    assert [(k, v) for k, v in head.headers.items() if k.title() not in ours] == [
        (k, v) for k, v in get.headers.items() if k.title() not in ours
    ]


def test_head_of_event_stream(api: Api) -> None:
    head = api.http.head(f"/v1/recalibrations/{api.open()}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/event-stream")


def test_head_evaluates_conditions_and_ranges(api: Api, name: str) -> None:
    path = f"/v1/recalibrations/{name}/model"
    etag = api.http.head(path).headers["ETag"]
    assert api.http.head(path, headers={"If-None-Match": etag}).status_code == 304
    part = api.http.head(path, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.headers["Content-Length"], part.content) == (206, "4", b"")
    assert api.http.head("/v1/recalibrations/rc_0").status_code == 404
    assert api.http.head(f"/v1/recalibrations/{name}/start").status_code == 405


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-3", slice(0, 4)),
        ("bytes=5-", slice(5, None)),
        ("bytes=-4", slice(-4, None)),
        ("bytes=0-99999", slice(0, None)),
    ],
)
def test_range(api: Api, name: str, asked: str, part: slice) -> None:
    whole = api.get(name, "/model").content
    response = api.get(name, "/model", Range=asked)
    assert response.status_code == 206
    assert response.content == whole[part]
    first, last = part.indices(len(whole))[:2]
    assert response.headers["Content-Range"] == f"bytes {first}-{last - 1}/{len(whole)}"


def test_if_range_with_old_tag(api: Api, name: str) -> None:
    response = api.get(name, "/model", Range="bytes=0-3", **{"If-Range": '"older"'})
    assert response.status_code == 200


@pytest.mark.parametrize("asked", ["items=0-3", "bytes=", "bytes=x-y", "bytes=-"])
def test_malformed_range_is_ignored(api: Api, name: str, asked: str) -> None:
    assert api.get(name, "/model", Range=asked).status_code == 200


@pytest.mark.parametrize("asked", ["bytes=99999-", "bytes=-0"])
def test_unsatisfiable_range(api: Api, name: str, asked: str) -> None:
    response = api.get(name, "/model", Range=asked)
    assert (response.status_code, response.json()["code"]) == (416, "range-unsatisfiable")
    assert response.headers["Content-Range"].startswith("bytes */")


def test_multiple_ranges(api: Api, name: str, blob_store: str) -> None:
    whole = api.get(name, "/model").content
    response = api.get(name, "/model", Range="bytes=0-1,4-")
    if blob_store:
        assert (response.status_code, response.content) == (200, whole)
        return
    assert response.status_code == 206
    assert response.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    for part in (whole[:2], whole[4:]):
        assert b"\r\n\r\n" + part + b"\r\n" in response.content


def test_only_complete_files_have_a_digest(api: Api, name: str) -> None:
    assert "Content-Digest" in api.get(name, "/model").headers
    assert "Content-Digest" not in api.get(name, "/model", Range="bytes=0-1").headers


def test_model_variants(api: Api, name: str) -> None:
    folded = json.loads(api.get(name, "/model?variant=folded").content)
    unfolded = json.loads(api.get(name, "/model?variant=unfolded").content)
    assert (folded["file"], unfolded["file"]) == ("folded.onnx", "unfolded.onnx")
    assert api.get(name, "/model?variant=other").status_code == 422


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("*/*", False),
        ("application/json", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html;q=0.5, application/json", False),
        ("text/*", True),
        ("", False),
        ("text/html;q=x", False),
    ],
)
def test_report_content_negotiation(api: Api, name: str, accept: str, *, html: bool) -> None:
    response = api.get(name, "/report", Accept=accept)
    kind = "text/html" if html else "application/json"
    assert response.headers["Content-Type"].startswith(kind)
    assert response.headers["Vary"] == "Accept"


def test_report_content_policy(api: Api, name: str) -> None:
    policy = api.get(name, "/report", Accept="text/html").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert policy.endswith("sandbox allow-scripts")
    assert "'unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
