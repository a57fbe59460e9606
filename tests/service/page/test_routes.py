"""The files of the page: no token, compressed, cached, and nothing from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import re

import pytest

from service.page.routes import read_files
from tests.support.service_http import Api, StartServer

PAGES = ("/", "/docs")
MAX_PAGE_BYTES = 300_000


def assets(api: Api, path: str) -> list[str]:
    return re.findall(r'(?:src|href)="(/assets/[^"]+)"', api.http.get(path).text)


@pytest.mark.parametrize("path", PAGES)
def test_page_may_load_only_from_its_server(api: Api, path: str) -> None:
    response = api.http.get(path)
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
def test_page_has_no_inline_script_or_style(api: Api, path: str) -> None:
    text = api.http.get(path).text
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert "<style" not in text
    assert " style=" not in text
    assert re.findall(r"\son\w+=", text) == []
    assert "//" not in re.sub(r"<!--.*?-->", "", text)  # no address of another server


def test_page_is_revalidated_and_its_assets_are_immutable(api: Api) -> None:
    page = api.http.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    again = api.http.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    for asset in assets(api, "/"):
        response = api.http.get(asset)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_compressed_and_plain_contents_are_the_same(api: Api) -> None:
    for path in ("/", *assets(api, "/")):
        packed = api.http.get(path, headers={"Accept-Encoding": "gzip"})
        plain = api.http.get(path, headers={"Accept-Encoding": "identity"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
        assert packed.content == plain.content  # httpx decompresses


def test_page_is_small(api: Api) -> None:
    files = read_files()
    names = ["index.html", *(asset.removeprefix("/") for asset in assets(api, "/"))]
    assert sum(len(files[name].compressed) for name in names) <= MAX_PAGE_BYTES


def test_compression_is_reproducible() -> None:
    digests = []
    for _ in range(2):
        packed = read_files()["index.html"].compressed
        digests.append(hashlib.sha256(packed).hexdigest())
        assert gzip.decompress(packed) == read_files()["index.html"].content
    assert digests[0] == digests[1]


def test_page_and_reference_need_no_token(start_server: StartServer) -> None:
    api = start_server(tokens=hashlib.sha256(b"secret").hexdigest())
    for path in (*PAGES, "/openapi.json", *assets(api, "/"), *assets(api, "/docs")):
        assert api.http.get(path).status_code == 200
    assert api.http.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    "path", ["/assets/none.js", "/assets/../index.html", "/assets/%2e%2e/index.html", "/index.html"]
)
def test_unknown_files_are_not_found(api: Api, path: str) -> None:
    assert api.http.get(path).status_code == 404


def test_head_of_page(api: Api) -> None:
    response = api.http.head("/")
    assert (response.status_code, response.content) == (200, b"")
