"""Answers of the wrong shape are noticed, and named by their member."""

from __future__ import annotations

import json

import pytest

from bnrecal_client import UnexpectedAnswerError
from bnrecal_client._http import responses as answers
from bnrecal_client._http.messages import Response

MODEL = {
    "id": "a",
    "bytes": 1,
    "created": "t",
    "inputs": [{"name": "x", "dtype": "float32", "shape": None}],
    "outputs": [],
    "layers": [
        {
            "name": "bn",
            "channels": None,
            "eps": 1,
            "affine": True,
            "input_rank": None,
            "reason": "why",
        }
    ],
    "warnings": ["w"],
}


def response(value: object) -> Response:
    return Response(
        status=200,
        headers={"content-type": "application/json"},
        body=json.dumps(value).encode(),
    )


def test_a_model_with_unknown_parts_is_read() -> None:
    model = answers.model(response(MODEL))
    assert model.inputs[0].shape is None
    assert (model.layers[0].channels, model.layers[0].eps) == (None, 1.0)
    assert (model.layers[0].reason, model.warnings) == ("why", ("w",))


def test_members_of_a_newer_server_are_ignored() -> None:
    assert answers.model(response({**MODEL, "news": 1})) == answers.model(response(MODEL))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": 3}, "id"),
        ({"bytes": "1"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"inputs": None}, "inputs"),
        ({"inputs": [3]}, "input"),
        ({"layers": [{**MODEL["layers"][0], "eps": None}]}, "eps"),  # type: ignore[index]
        ({"layers": [{**MODEL["layers"][0], "affine": 1}]}, "affine"),  # type: ignore[index]
    ],
)
def test_a_member_of_the_wrong_type_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(UnexpectedAnswerError, match=f"no usable '{named}'"):
        answers.model(response({**MODEL, **change}))


@pytest.mark.parametrize("value", [[], 3, "text", None])
def test_what_is_no_object_is_told(value: object) -> None:
    with pytest.raises(UnexpectedAnswerError, match="wanted an object"):
        answers.model(response(value))


def test_what_is_no_json_is_told() -> None:
    page = Response(status=200, headers={"content-type": "text/html"}, body=b"<h1>")
    with pytest.raises(UnexpectedAnswerError, match="200 with text/html where JSON was due"):
        answers.model(page)


def test_a_report_that_is_no_text_or_no_json_is_noticed() -> None:
    damaged = Response(status=200, headers={"content-type": "text/html"}, body=b"\xff\xfe")
    with pytest.raises(UnexpectedAnswerError, match="no text"):
        answers.page(damaged)
    with pytest.raises(UnexpectedAnswerError, match="where JSON was due"):
        answers.report(damaged)
