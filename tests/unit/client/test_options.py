"""Options: several forms for callers, one JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

import bn_ops
from bnrecal_client import OptionError
from bnrecal_client._http import requests
from bnrecal_client.options import Options


def test_default_estimator_is_left_to_the_server() -> None:
    options = Options.of(method="exact", estimator=None, layers=None)
    body = requests.create("m", options, key="k").body
    assert isinstance(body, bytes)
    assert "estimator" not in json.loads(body)
    assert options.differences(stored({"name": "auto"})) == []


def test_estimator_is_passed_on_as_it_was_given() -> None:
    for given in ("prior:16", {"name": "prior", "samples": 3}):
        options = Options.of(method="exact", estimator=given, layers=None)
        assert options.estimator == given
        body = requests.create("m", options, key="k").body
        assert isinstance(body, bytes)
        assert json.loads(body)["estimator"] == given


def stored(estimator: Mapping[str, object]) -> dict[str, object]:
    return {"method": "exact", "estimator": estimator, "layers": None}


@pytest.mark.parametrize(
    "text",
    [
        *("auto", "auto:varied", "replace", "shrink", "prior:16", "prior:0.5", "prior:1e3"),
        *("prior:16:mixture", "momentum:0.1"),
    ],
)
def test_short_form_equals_the_json_form_of_the_library(text: str) -> None:
    form = dict(bn_ops.estimator_from_string(text).to_json())
    options = Options.of(method="exact", estimator=text, layers=None)
    assert options.differences(stored(form)) == []
    for other in ("replace", "shrink", "prior:17", "prior:16:mixture", "momentum:0.2"):
        found = dict(bn_ops.estimator_from_string(other).to_json())
        assert (options.differences(stored(found)) == []) is (found == form), other


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


def test_preset_in_place_of_the_json_form_is_an_error() -> None:
    with pytest.raises(OptionError, match="preprocess is 'imagenet': use the JSON form"):
        Options.of(preprocess="imagenet")  # type: ignore[arg-type]
