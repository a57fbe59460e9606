from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.context import EVERYTHING
from service.errors import StartError
from service.middleware.authentication import is_loopback
from service.middleware.keyring import Key, holder, read_tokens
from service.server import main, require_token_unless_loopback
from service.settings import Settings
from tests.support.service_http import Api, StartServer

TOKEN = "a long secret"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
KEY = Key(sha256=bytes.fromhex(HASH), caller=EVERYTHING)


def test_loopback_hosts_need_no_token(api: Api) -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:9", "LOCALHOST:1"):
        assert api.http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"])
def test_foreign_host_is_rejected(api: Api, host: str) -> None:
    response = api.http.get("/v1/models", headers={"Host": host})
    assert (response.status_code, response.json()["code"]) == (403, "host-refused")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "file://"])
def test_foreign_origin_is_rejected(api: Api, origin: str) -> None:
    response = api.http.post("/v1/recalibrations/x/cancel", headers={"Origin": origin})
    assert (response.status_code, response.json()["code"]) == (403, "host-refused")


def test_only_probes_and_the_page_need_no_token(start_server: StartServer) -> None:
    api = start_server(tokens=HASH)
    for path in ("/v1/models", "/metrics", "/v1/recalibrations", "/nothing", "/docs/", "/assets"):
        response = api.http.get(path)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert api.http.get(path).status_code == 200


def test_valid_token_permits_any_host(start_server: StartServer) -> None:
    api = start_server(tokens=f"{'0' * 64}, {HASH.upper()}")
    right = {"Authorization": f"Bearer {TOKEN}", "Host": "recal.example"}
    assert api.http.get("/v1/models", headers=right).status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, HASH]
)
def test_unknown_tokens_have_no_holder(header: str | None) -> None:
    assert holder(header, [KEY]) is None


def test_hash_is_not_a_token() -> None:
    assert holder(f"Bearer {HASH}", [KEY]) is None
    assert holder(f"Bearer {TOKEN}", [KEY]) is EVERYTHING


def test_tokens_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who\n{HASH}  # ci\n\n")
    assert read_tokens(Settings(tokens_file=file)) == (bytes.fromhex(HASH),)


@pytest.mark.parametrize("entry", [TOKEN, "0" * 63, "g" * 64])
def test_malformed_hash_prevents_start(entry: str) -> None:
    with pytest.raises(StartError, match="sha256sum"):
        read_tokens(Settings(tokens=entry))


def test_public_address_requires_tokens() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "recal.example"):
        with pytest.raises(StartError, match="BNRECAL_TOKENS"):
            require_token_unless_loopback(Settings(host=host))
        require_token_unless_loopback(Settings(host=host, tokens=HASH))
    require_token_unless_loopback(Settings(host="127.0.0.1"))


def test_loopback_start_reads_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database " * 100)
    require_token_unless_loopback(Settings(data_dir=tmp_path))
    with pytest.raises(StartError, match="NotADBError"):
        require_token_unless_loopback(Settings(data_dir=tmp_path, host="0.0.0.0"))


def test_command_requires_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "0.0.0.0", "--port", "0"]) == 2
    assert "BNRECAL_TOKENS" in capsys.readouterr().err


def test_loopback_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [
        True
    ] * 4
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "localhost.evil", "1.2.3.4"))


def test_responses_have_security_headers(api: Api) -> None:
    for path in ("/healthz", "/nothing", "/docs"):
        headers = api.http.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
