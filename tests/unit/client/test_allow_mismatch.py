"""The option `allow_mismatch`, from the callers' side to the request."""

from __future__ import annotations

import json

import pytest

from bnrecal_client._http import requests
from bnrecal_client.options import Options
from tests.support.client_server import MODEL, ClientServer
from tests.support.played_clients import Calls, stream
from tests.unit.client.test_cli_commands import Desk, desk

__all__ = ["desk"]


@pytest.mark.parametrize("value", [False, True])
def test_it_is_sent_only_where_it_is_set(*, value: bool) -> None:
    """A server that is older than the input check rejects unknown options."""
    options = Options.of(method="exact", estimator=None, layers=None, allow_mismatch=value)
    content = requests.create("m", options, key="k").body
    assert isinstance(content, bytes)
    assert json.loads(content).get("allow_mismatch") == (True if value else None)


def test_a_resumed_recalibration_must_have_the_same_value() -> None:
    options = Options.of(method="exact", estimator=None, layers=None, allow_mismatch=True)
    stored = {"method": "exact", "estimator": {"name": "replace"}, "layers": None}
    assert options.differences(stored) == ["allow_mismatch"]
    assert options.differences(stored | {"allow_mismatch": True}) == []


def test_clients_send_it(client: Calls, server: ClientServer) -> None:
    client.recalibrate(MODEL, stream(), progress=False, allow_mismatch=True)
    client.recalibrate(MODEL, stream(), progress=False)
    sent = [one["options"]["allow_mismatch"] for one in server.recalibrations]
    assert sent == [True, False]


@pytest.mark.parametrize("words", [(), ("--allow-mismatch",)])
def test_command_sends_it(words: tuple[str, ...], desk: Desk) -> None:
    code, _, err = desk.recalibrate(*words)
    assert (code, err) == (0, "")
    (opened,) = desk.server.recalibrations
    assert opened["options"]["allow_mismatch"] is bool(words)
