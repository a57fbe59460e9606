from __future__ import annotations

import ast
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.telemetry import logs
from service.telemetry.logs import JsonFormatter, choose_request_id
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer, batch, npy
from tools.log_actions import ACTIONS

ROOT = Path(__file__).parents[3]
TOKEN = "bnr_nobody-may-read-this"
PAYLOAD = b"bad nobody-may-read-this-either"


class Lines(logging.Handler):
    """Collects log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "httpx":  # the test's own client
            self.text.append(self.format(record))

    def of(self, **members: object) -> list[dict[str, Any]]:
        """Return the lines with these members."""
        found: list[dict[str, Any]] = [json.loads(line) for line in self.text]
        return [one for one in found if members.items() <= one.items()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def actions(tree: ast.AST) -> Iterator[str]:
    """Yield every action that a module logs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "action":
                    assert isinstance(value, ast.Constant)
                    yield str(value.value)


def test_listed_actions_match_the_code() -> None:
    found = [
        action
        for path in (ROOT / "service").rglob("*.py")
        for action in actions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert sorted(set(found)) == sorted(ACTIONS)
    assert list(actions(ast.parse("_log.info('x', extra={'action': 'new', **ids})"))) == ["new"]


def test_log_calls_have_an_action() -> None:
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_log."):
                assert any(word.arg == "extra" for word in node.keywords), (path, node.lineno)


def test_log_line_is_json() -> None:
    members = {"msg": "A run %s", "args": ("starts",), "levelname": "INFO"}
    others = {"_ray_timestamp_ns": 1}  # Ray adds it to every record of a process that connects
    record = logging.makeLogRecord(members | others | {"action": "run-started", "n": 1})
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["action"], line["n"]) == ("A run starts", "run-started", 1)
    assert line["level"] == "info"
    assert line["time"].endswith("Z")
    assert line.keys().isdisjoint({"request_id", *others})


def test_request_is_one_line(api: Api, lines: Lines) -> None:
    response = api.get("rc_none")
    (line,) = lines.of(action="request", request_id=response.headers["X-Request-Id"])
    assert (line["status"], line["code"]) == (404, "not-found")
    assert line["route"] == "/v1/recalibrations/{recalibration}"
    response = api.http.get("/healthz")
    (line,) = lines.of(action="request", request_id=response.headers["X-Request-Id"])
    assert (line["status"], line["code"]) == (200, None)


def test_request_id_is_kept(api: Api, lines: Lines) -> None:
    response = api.get("rc_none", **{"X-Request-Id": "from-a.proxy_1"})
    assert response.headers["X-Request-Id"] == "from-a.proxy_1"
    assert response.json()["instance"] == "urn:bnrecal:request:from-a.proxy_1"
    assert len(lines.of(request_id="from-a.proxy_1")) == 1


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "é", '"', "-a", "a\tb", "<script>"])
def test_invalid_request_id_is_replaced(sent: str) -> None:
    assert choose_request_id(sent) != sent
    assert len(choose_request_id(sent)) == 36


def test_internal_error_is_logged_with_request_id(
    start_server: StartServer,
    executor: FakeExecutor,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(_: Path) -> dict[str, object]:
        logging.getLogger("library").warning("just before")
        raise RuntimeError

    monkeypatch.setattr(executor, "inspect", broken)
    response = start_server().upload_model()
    found = lines.of(request_id=response.json()["instance"].rpartition(":")[2])
    assert [one["message"] for one in found] == ["just before", "POST /v1/models 500"]
    assert found[-1]["code"] == "internal"


def test_no_secrets_in_logs(start_server: StartServer, lines: Lines) -> None:
    sha256 = hashlib.sha256(TOKEN.encode()).hexdigest()
    api = start_server(tokens=sha256)
    for right in (f"Bearer {TOKEN}", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
        api.http.headers["Authorization"] = right
        api.http.get(f"/v1/models?token={TOKEN}")
    api.http.headers["Authorization"] = f"Bearer {TOKEN}"
    api.upload_model(PAYLOAD)
    name = api.open()
    api.put(name, 0, npy(batch()), {"Content-Type": "application/x-npy"})
    api.put(name, 1, PAYLOAD)
    api.http.post("/v1/recalibrations", json={"model": PAYLOAD.decode()})
    api.append(name, PAYLOAD, **{"Idempotency-Key": TOKEN})
    assert len(lines.of(action="request")) >= 8
    text = "\n".join(lines.text)
    for secret in (TOKEN, sha256, "nobody-may-read"):
        assert secret not in text


def test_long_path_is_truncated(api: Api, lines: Lines) -> None:
    api.http.get("/" + "x" * 10_000)
    (line,) = lines.of(action="request")
    assert len(line["message"]) < 300


def test_sandbox_status_is_requested_at_startup(
    start_server: StartServer, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    answer = executor.sandbox_status

    async def sandbox_status() -> Any:
        asked.append(True)
        return await answer()

    monkeypatch.setattr(executor, "sandbox_status", sandbox_status)
    api = start_server()
    assert api.http.get("/healthz").status_code == 200
    assert asked == [True]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("root_logger")
def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    log = logging.getLogger("service.test")
    log.warning("The disk is %s", "full", extra={"action": "disk"})
    for method, status in (("GET", 200), ("GET", 404), ("PUT", 201)):
        extra = {"action": "request", "status": status}
        log.info("%s /v1/models %d", method, status, extra=extra)
    log.error("It failed", exc_info=ValueError("why"), extra={"recalibration": "rc_1"})
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning: The disk is full", lines[0])
    assert [line[9:] for line in lines[1:4]] == [
        "info: GET /v1/models 404",
        "info: PUT /v1/models 201",
        "error: It failed (rc_1)",
    ]
    assert lines[-1] == "ValueError: why"


@pytest.mark.usefixtures("root_logger")
def test_format_is_json_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info")
    logging.getLogger("service.test").info("x")
    assert json.loads(capsys.readouterr().err)["message"] == "x"
