"""Responses: typed values, and errors that name an unexpected member."""

from __future__ import annotations

import json
import re

import pytest

from bnrecal_client import ModelDescription, Recalibration, UnexpectedResponseError
from bnrecal_client._http.messages import Response, read, report, report_html

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


def model(value: object) -> ModelDescription:
    return read(response(value), ModelDescription, 200)


def test_model_with_unknown_parts_is_read() -> None:
    found = model(MODEL)
    assert found.inputs[0].shape is None
    assert (found.layers[0].channels, found.layers[0].eps) == (None, 1.0)
    assert (found.layers[0].reason, found.warnings) == ("why", ("w",))


def test_members_of_newer_server_are_ignored() -> None:
    assert model({**MODEL, "news": 1}) == model(MODEL)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": 3}, "$.id"),
        ({"bytes": "1"}, "$.bytes"),
        ({"bytes": True}, "$.bytes"),
        ({"inputs": None}, "$.inputs"),
        ({"inputs": [3]}, "$.inputs[0]"),
        ({"layers": [{**MODEL["layers"][0], "eps": None}]}, "$.layers[0].eps"),  # type: ignore[index]
        ({"layers": [{**MODEL["layers"][0], "affine": 1}]}, "$.layers[0].affine"),  # type: ignore[index]
    ],
)
def test_error_names_member_of_wrong_type(change: dict[str, object], path: str) -> None:
    with pytest.raises(UnexpectedResponseError, match=re.escape(f"`{path}`")):
        model({**MODEL, **change})


def test_error_names_a_missing_member() -> None:
    with pytest.raises(UnexpectedResponseError, match="missing required field `created`"):
        model({name: value for name, value in MODEL.items() if name != "created"})


@pytest.mark.parametrize("value", [[], 3, "text", None])
def test_response_must_be_an_object(value: object) -> None:
    with pytest.raises(UnexpectedResponseError, match="Expected `object`"):
        model(value)


def test_response_must_be_json() -> None:
    page = Response(status=200, headers={"content-type": "text/html"}, body=b"<h1>")
    with pytest.raises(UnexpectedResponseError, match="200 with text/html instead of JSON"):
        read(page, ModelDescription, 200)


def test_damaged_report_is_an_error() -> None:
    damaged = Response(status=200, headers={"content-type": "text/html"}, body=b"\xff\xfe")
    with pytest.raises(UnexpectedResponseError, match="not UTF-8"):
        report_html(damaged)
    with pytest.raises(UnexpectedResponseError, match="instead of JSON"):
        report(damaged)


def test_error_keeps_further_members() -> None:
    found = read(
        response(
            {
                "id": "rc_1",
                "model": "a",
                "state": "failed",
                "options": {},
                "batches": {"received": 1, "samples": 2, "bytes": 3, "total": 1},
                "phase": None,
                "progress": None,
                "error": {"code": "batch-shape", "title": "A title", "status": 422, "batch": 3},
                "attempts": 1,
                "created": "t",
                "updated": "t",
                "ended": "t",
            }
        ),
        Recalibration,
        200,
    )
    assert found.has_ended
    assert found.error is not None
    assert (found.error.code, found.error.detail, found.error.status) == (
        "batch-shape",
        "A title",
        422,
    )
    assert dict(found.error.members) == {"batch": 3}
