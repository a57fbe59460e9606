"""The OpenAPI document, with the errors of every route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service import problems

_METHODS = ("get", "put", "post", "delete")


def install(app: FastAPI) -> None:
    """Make an app serve the document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's documented way


def build(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document; all operations share one schema for errors."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _problem_schema()
    for operation in _operations(document):
        operation["responses"].pop("422", None)
        operation["responses"]["default"] = {
            "description": "An error.",
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"token": []}]
    return document


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        item[method] for item in document["paths"].values() for method in _METHODS if method in item
    ]


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    example = problems.document(
        "batches-missing",
        "2 of 15 batches are missing: [3, 7]",
        instance="urn:bnrecal:request:3f0c9a52-6a35-4c52-8a0a-5a3a5ce0a001",
        members={"missing": [3, 7]},
    )
    return {
        "type": "object",
        "description": "Problem details (RFC 9457); additional members depend on the code.",
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"type": "string", "enum": sorted(problems.TABLE)},
            "error": text,
            "instance": text,
            "retryable": {"type": "boolean"},
        },
        "required": ["type", "title", "status", "detail", "code", "error", "retryable"],
        "additionalProperties": True,
        "example": example,
    }
