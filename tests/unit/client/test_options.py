"""Options: several forms for callers, one JSON form."""

from __future__ import annotations

import pytest

from bnrecal_client import OptionError
from bnrecal_client._http import requests
from bnrecal_client.options import Options, parse_estimator


@pytest.mark.parametrize(
    ("said", "form"),
    [
        (None, {"name": "replace"}),
        ("replace", {"name": "replace"}),
        ("shrink", {"name": "shrink"}),
        ("prior:16", {"name": "prior", "samples": 16, "mixture": False}),
        ("prior:0.5", {"name": "prior", "samples": 0.5, "mixture": False}),
        ("prior:16:mixture", {"name": "prior", "samples": 16, "mixture": True}),
        ("momentum:0.1", {"name": "momentum", "momentum": 0.1}),
        ({"name": "prior", "samples": 3}, {"name": "prior", "samples": 3}),
    ],
)
def test_estimator_has_one_json_form(said: str | dict[str, object], form: object) -> None:
    assert parse_estimator(said) == form


@pytest.mark.parametrize(
    "said",
    [
        *("", "Prior:16", "prior", "prior:x", "prior:16:mix", "replace:1", "momentum", "16"),
        *("momentum:nan", "prior:inf", "prior:-inf"),
    ],
)
def test_unknown_estimator_is_an_error(said: str) -> None:
    with pytest.raises(OptionError, match="prior:SAMPLES"):
        parse_estimator(said)


def test_library_accepts_every_text_form() -> None:
    bn_ops = pytest.importorskip("bn_ops")
    for said in ("replace", "prior:16", "prior:16:mixture", "momentum:0.1"):
        form = parse_estimator(said)
        assert bn_ops.estimator_from_json(form).to_json() == form


def test_string_for_layers_is_an_error() -> None:
    with pytest.raises(OptionError, match="list of patterns"):
        Options.of(method="exact", estimator=None, layers="bn*")


def test_unknown_method_is_an_error() -> None:
    with pytest.raises(OptionError, match="exact, batch"):
        Options.of(method="guess", estimator=None, layers=None)


def test_estimator_without_name_is_an_error() -> None:
    with pytest.raises(OptionError, match="no name"):
        Options.of(method="exact", estimator={"samples": 3}, layers=None)


def test_server_defaults_are_not_a_difference() -> None:
    options = Options.of(method="exact", estimator={"name": "prior", "samples": 16}, layers=None)
    stored = {
        "method": "exact",
        "estimator": {"name": "prior", "samples": 16, "mixture": False},
        "layers": None,
    }
    assert options.differences(stored) == []
    assert options.differences({**stored, "layers": ["a"]}) == ["layers"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_options_without_json_form_are_errors(value: object) -> None:
    estimator = {"name": "momentum", "momentum": value}
    options = Options.of(method="exact", estimator=estimator, layers=None)
    with pytest.raises(OptionError, match="cannot be written as JSON"):
        requests.create("m", options, key="k")
