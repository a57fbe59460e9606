from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from bn_ops import errors as bn_errors
from service import errors, problems
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer

MEMBERS = {"type", "title", "status", "detail", "code", "error", "instance", "retryable"}
URN = re.compile(r"urn:bnrecal:request:[0-9a-f-]{36}")


def assert_canonical(response: httpx.Response) -> None:
    problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem.keys() >= MEMBERS
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:bnrecal:problem:{problem['code']}"
    assert problem["error"] == problem["detail"] != ""
    assert URN.fullmatch(problem["instance"])
    assert problem["instance"].endswith(response.headers["X-Request-Id"])
    assert problem["code"] in problems.TABLE


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        # responses of the framework
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/", 404),
        ("OPTIONS", "/v1/models", 405),
        ("PATCH", "/v1/models", 405),
        ("POST", "/v1/recalibrations", 422),
        ("GET", "/v1/models?limit=0", 422),
        ("GET", "/v1/models?after=x", 422),
        # responses of the server
        ("GET", "/v1/models/0", 404),
        ("DELETE", "/v1/models/0", 404),
        ("POST", "/v1/models", 415),
        ("GET", "/v1/recalibrations/0", 404),
        ("DELETE", "/v1/recalibrations/0", 404),
        ("GET", "/v1/recalibrations/0/batches", 404),
        ("GET", "/v1/recalibrations/0/events", 404),
        ("GET", "/v1/recalibrations/0/model", 404),
        ("GET", "/v1/recalibrations/0/statistics", 404),
        ("GET", "/v1/recalibrations/0/report", 404),
        ("POST", "/v1/recalibrations/0/cancel", 404),
        ("POST", "/v1/recalibrations/0/start", 422),
        ("POST", "/v1/recalibrations/0/batches", 415),
        ("PUT", "/v1/recalibrations/0/batches/0", 415),
    ],
)
def test_errors_are_problems(api: Api, method: str, path: str, status: int) -> None:
    response = api.http.request(method, path)
    assert response.status_code == status
    assert_canonical(response)


def test_malformed_json_is_a_problem(api: Api) -> None:
    kind = {"Content-Type": "application/json"}
    response = api.http.post("/v1/recalibrations", content=b"{", headers=kind)
    assert response.status_code == 422
    assert_canonical(response)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_json_content_type_is_required(api: Api, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = api.http.post("/v1/recalibrations", content=b'{"model": "x"}', headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "media-type-unsupported")
    assert "application/json" in response.json()["detail"]
    assert_canonical(response)


def test_oversized_json_is_rejected(api: Api) -> None:
    kind = {"Content-Type": "application/json"}
    response = api.http.post("/v1/recalibrations", content=b" " * (1 << 21), headers=kind)
    assert response.status_code == 413
    assert_canonical(response)


def test_internal_error_reveals_nothing(
    start_server: StartServer, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Path) -> dict[str, object]:
        raise RuntimeError("secret path /etc/shadow")

    monkeypatch.setattr(executor, "inspect", broken)
    response = start_server().upload_model()
    assert response.status_code == 500
    assert_canonical(response)
    assert "secret" not in response.text


def concrete(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(each for kind in root.__subclasses__() for each in concrete(kind))]


@pytest.mark.parametrize(
    "kind", concrete(errors.ServiceError) + concrete(bn_errors.BnOpsError), ids=lambda k: k.__name__
)
def test_every_error_class_is_listed(kind: type[Exception]) -> None:
    assert kind.code in problems.TABLE  # type: ignore[attr-defined]


def test_unknown_code_of_worker() -> None:
    error = errors.RefusedError("a newer worker", refusal="not-yet-invented", layer="bn1")
    found = problems.from_error(error)
    assert (found["status"], found["code"], found["layer"]) == (422, "worker-refused", "bn1")


def test_details_keep_standard_members() -> None:
    found = problems.document("not-found", "gone", members={"status": 200, "batch": 1})
    assert (found["status"], found["batch"]) == (404, 1)


def test_lone_surrogates_are_escaped(api: Api) -> None:
    found = problems.document(
        "not-found", "\ud800", members={"a": "\udfff", "b": ["\ud800"], "c": 1}
    )
    assert [found[one] for one in ("detail", "error", "a", "b", "c")] == [
        "\\ud800",
        "\\ud800",
        "\\udfff",
        ["\\ud800"],
        1,
    ]
    tensor = {"name": "\ud800", "datatype": "FP32", "shape": "x"}
    response = api.http.post(
        f"/v2/models/{api.open()}/infer", content=json.dumps({"inputs": [tensor]})
    )
    assert (response.status_code, response.json()["input"]) == (422, "\\ud800")


def test_allowed_methods_are_listed(api: Api) -> None:
    response = api.http.patch("/v1/recalibrations/0")
    assert response.status_code == 405
    assert response.headers["Allow"] == "DELETE, GET, HEAD"


def test_missing_member_is_the_only_fault(api: Api) -> None:
    problem = api.http.post("/v1/recalibrations", json={}).json()
    assert problem["detail"] == "body.model: Field required"
    assert problem["faults"] == ["body.model: Field required"]
