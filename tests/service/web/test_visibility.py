"""A token sees only its own objects; those of others seem not to exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.admin.command import main
from service.app import create_app
from service.errors import StartError
from service.server import require_token_unless_loopback
from service.settings import Settings
from tests.support.service_fakes import GOOD_MODEL, FakeExecutor
from tests.support.service_http import Api, StartServer, batch, safetensors
from tests.support.waiting import until

KEPT = ("X-Request-Id", "Date")
# Routes without objects of an owner, and the status for a token without further rights.
COMMON = {
    ("get", "/v1/models"): 200,
    ("post", "/v1/models"): 201,
    ("get", "/v1/recalibrations"): 200,
    ("post", "/v1/recalibrations"): 201,
    ("get", "/healthz"): 200,
    ("get", "/readyz"): 200,
    ("get", "/metrics"): 403,
    ("get", "/v2"): 200,
    ("get", "/v2/health/live"): 200,
    ("get", "/v2/health/ready"): 200,
}
# Routes that create an object and return it; they cannot refer to objects of others.
OWN_OBJECTS_ONLY = {("post", "/v1/recalibrate")}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"token_refresh_seconds": 0.0})


@pytest.fixture
def make(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Create a token while the server is running."""
    monkeypatch.setenv("BNRECAL_LEDGER", settings.ledger)

    def create(name: str, *words: str) -> str:
        arguments = ["--data-dir", str(settings.data_dir), "--json", "tokens", "create", name]
        assert main([*arguments, *words]) == 0
        return str(json.loads(capsys.readouterr().out.splitlines()[-1])["token"])

    return create


@pytest.fixture
def people(api: Api, make: Callable[..., str]) -> dict[str, Api]:
    """Return one server through the tokens of three users."""
    secrets = {name: make(name) for name in ("ann", "bob")} | {"ops": make("ops", "--admin")}
    return {name: view(api, secret) for name, secret in secrets.items()}


def view(api: Api, secret: str) -> Api:
    client = httpx.Client(transport=api.http._transport, base_url=api.http.base_url)
    client.headers["Authorization"] = f"Bearer {secret}"
    return Api(client)


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [one["id"] for one in response.json()["items"]]


def routes() -> list[tuple[str, str]]:
    document = create_app(Settings(), executor=FakeExecutor()).openapi()
    return [(method, path) for path, item in document["paths"].items() for method in item]


@pytest.mark.parametrize(("method", "path"), routes())
def test_routes_hide_objects_of_others(people: dict[str, Api], method: str, path: str) -> None:
    if (method, path) in COMMON or (method, path) in OWN_OBJECTS_ONLY:
        return
    ann = people["ann"]
    running = ann.finished(batches=1, keep_data=True)
    model = ann.get(running).json()["model"]
    known = {"recalibration": running, "model": model, "index": "0", "version": "1"}
    names = set(re.findall(r"{(\w+)}", path))
    assert names & {"recalibration", "model"}, f"{path} has no parameter with an owner"
    assert names <= known.keys(), f"unknown path parameters: {names - known.keys()}"
    foreign = call(people["bob"], method, path.format(**known))
    known |= {"recalibration": "rc_" + "0" * 32, "model": "0" * 64}
    nothing = call(people["bob"], method, path.format(**known))
    assert (foreign.status_code, foreign.json()["code"]) == (404, "not-found")
    # The two responses are identical.
    assert scrubbed(foreign, running, model) == scrubbed(nothing, *known.values())
    assert ann.get(running).json()["state"] == "succeeded"
    assert call(people["ops"], "get", f"/v1/recalibrations/{running}").status_code == 200


def call(api: Api, method: str, path: str) -> httpx.Response:
    body: dict[str, Any] = {"json": {"batches": 1}} if path.endswith("start") else {}
    if method in {"put", "post"} and not body:
        kind = {"Content-Type": "application/vnd.safetensors"}
        body = {"content": safetensors(x=batch()), "headers": kind}
    return api.http.request(method, path, **body)


def scrubbed(response: httpx.Response, *names: str) -> dict[str, Any]:
    text = response.text
    for name in names[:2]:
        text = text.replace(name, "ID")
    found: dict[str, Any] = json.loads(text)
    return {key: value for key, value in found.items() if key != "instance"}


@pytest.mark.parametrize(("route", "status"), COMMON.items())
def test_lists_hide_objects_of_others(
    people: dict[str, Api], route: tuple[str, str], status: int
) -> None:
    name = people["ann"].open()
    model = people["ann"].get(name).json()["model"]
    method, path = route
    if method == "post":
        return
    response = people["bob"].http.request(method, path)
    assert response.status_code == status
    assert name not in response.text
    assert model not in response.text


def test_lists_per_token(people: dict[str, Api]) -> None:
    mine, theirs = people["ann"].open(), people["bob"].open(b"another good model")
    assert ids(people["ann"].http.get("/v1/recalibrations")) == [mine]
    assert ids(people["bob"].http.get("/v1/recalibrations")) == [theirs]
    assert ids(people["ops"].http.get("/v1/recalibrations")) == [mine, theirs]
    assert len(ids(people["bob"].http.get("/v1/models"))) == 1
    assert len(ids(people["ops"].http.get("/v1/models"))) == 2


def test_upload_does_not_reveal_other_owners(
    people: dict[str, Api], executor: FakeExecutor
) -> None:
    first, second = (people[name].upload_model() for name in ("ann", "bob"))
    assert (first.status_code, second.status_code) == (201, 201)
    assert executor.describing == 2  # so that the time of the request reveals nothing
    assert second.json()["created"] >= first.json()["created"]
    assert people["bob"].upload_model().status_code == 200
    again = people["bob"].http.get(f"/v1/models/{first.json()['id']}")
    assert again.json() == second.json()


def test_delete_keeps_model_of_others(people: dict[str, Api], settings: Settings) -> None:
    model = people["ann"].upload_model().json()["id"]
    path = f"/v1/models/{model}"
    assert people["bob"].http.delete(path).status_code == 404
    people["bob"].upload_model()
    name = people["bob"].open()
    # That Bob uses it does not concern Ann.
    assert people["ann"].http.delete(path).status_code == 204
    assert people["ann"].http.get(path).status_code == 404
    assert people["ann"].http.delete(path).status_code == 404
    assert people["bob"].http.get(path).status_code == 200
    assert people["bob"].http.delete(path).json()["code"] == "model-in-use"
    assert people["bob"].http.delete(f"/v1/recalibrations/{name}").status_code == 204
    assert people["bob"].http.delete(path).status_code == 204
    assert not list(settings.data_dir.glob("models/*"))


def test_revoking_last_token_keeps_authentication(
    api: Api, make: Callable[..., str], settings: Settings
) -> None:
    ann = view(api, make("ann"))
    assert ann.http.get("/v1/models").status_code == 200
    assert main(["--data-dir", str(settings.data_dir), "tokens", "revoke", "ann"]) == 0
    for client in (ann, api):
        assert client.http.get("/v1/models").status_code == 401


def test_admin_can_own_a_model(
    people: dict[str, Api],
) -> None:
    model = people["ann"].upload_model().json()["id"]
    assert people["ops"].upload_model().status_code == 200
    assert people["ann"].http.delete(f"/v1/models/{model}").status_code == 204
    assert people["ann"].http.get(f"/v1/models/{model}").status_code == 404
    assert people["ops"].http.get(f"/v1/models/{model}").status_code == 200


def test_model_of_others_is_not_found(people: dict[str, Api]) -> None:
    model = people["ann"].upload_model().json()["id"]
    answers = [
        people["bob"].http.post("/v1/recalibrations", json={"model": name})
        for name in (model, "0" * 64)
    ]
    assert [one.status_code for one in answers] == [404, 404]
    texts = [one.json()["detail"].replace(model, "0" * 64) for one in answers]
    assert texts[0] == texts[1]


def test_idempotency_keys_are_per_token(people: dict[str, Api]) -> None:
    key = {"Idempotency-Key": "same"}
    made = []
    for name in ("ann", "bob"):
        model = people[name].upload_model().json()["id"]
        asked = {"model": model}
        answer = people[name].http.post("/v1/recalibrations", json=asked, headers=key)
        again = people[name].http.post("/v1/recalibrations", json=asked, headers=key)
        assert answer.json()["id"] == again.json()["id"]
        made.append(answer.json()["id"])
    assert made[0] != made[1]


def test_quotas_of_a_token(api: Api, make: Callable[..., str]) -> None:
    size = len(safetensors(x=batch()))
    limit = len(GOOD_MODEL) + 2 * size
    api = view(api, make("small", "--limit-bytes", str(limit), "--limit-open", "2"))
    name = api.open()
    assert api.put(name, 0).status_code == 201
    assert api.put(name, 1).status_code == 201
    refused = [api.put(name, 2), api.upload_model(b"another good model")]
    assert [one.json()["code"] for one in refused] == ["quota-exceeded"] * 2
    assert api.start(name, 2).status_code == 202
    api.wait(name)
    api.open()
    other = api.open()
    model = api.get(name).json()["model"]
    assert api.http.post("/v1/recalibrations", json={"model": model}).status_code == 413
    # The data of the ended recalibration is removed shortly after its end.
    until(lambda: api.put(other, 0).is_success)
    assert api.put(other, 1).status_code == 201


def test_revoked_token_is_rejected(api: Api, make: Callable[..., str], settings: Settings) -> None:
    one, two = view(api, make("one")), view(api, make("two"))
    name = one.open()
    assert main(["--data-dir", str(settings.data_dir), "tokens", "revoke", "one"]) == 0
    assert one.http.get("/v1/models").status_code == 401
    assert two.http.get("/v1/models").status_code == 200
    again = view(api, make("one"))
    assert ids(again.http.get("/v1/recalibrations")) == [name]


def test_first_token_enables_authentication(api: Api, make: Callable[..., str]) -> None:
    name = api.open()
    ann = view(api, make("ann"))
    assert api.http.get("/v1/models").status_code == 401
    assert ann.get(name).status_code == 404  # it was created without a token
    assert view(api, make("ops", "--admin")).get(name).status_code == 200


def test_token_from_settings_is_admin(start_server: StartServer, make: Callable[..., str]) -> None:
    import hashlib

    api = start_server(tokens=hashlib.sha256(b"root").hexdigest())
    name = view(api, make("ann")).open()
    root = view(api, "root")
    assert root.get(name).status_code == 200
    assert root.http.get("/metrics").status_code == 200


def test_public_address_always_requires_tokens(
    start_server: StartServer,
) -> None:
    api = start_server(host="0.0.0.0")
    assert api.http.get("/v1/models", headers={"Host": "localhost"}).status_code == 401


def test_public_address_with_token_in_ledger(
    tmp_path: Path, make: Callable[..., str], settings: Settings
) -> None:
    del tmp_path
    asked = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(StartError, match="tokens create"):
        require_token_unless_loopback(asked)
    make("ann")
    require_token_unless_loopback(asked)


@pytest.mark.parametrize(
    "words", [["a b"], [""], ["x" * 65], ["../x"], ["x", "--limit-open", "-1"]]
)
def test_invalid_token_arguments(settings: Settings, words: list[str]) -> None:
    assert main(["--data-dir", str(settings.data_dir), "tokens", "create", *words]) == 2


def test_token_is_stored_as_hash(
    settings: Settings, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    secret = make("ann", "--limit-open", "3")
    arguments = ["--data-dir", str(settings.data_dir), "tokens"]
    assert main([*arguments, "create", "ann"]) == 2
    assert main([*arguments, "list"]) == 0
    assert main([*arguments, "revoke", "bob"]) == 2
    printed = capsys.readouterr().out
    assert "name=ann" in printed
    assert secret not in printed
    for path in settings.data_dir.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()
