"""The OpenAPI document, with the errors of every route, and a page that lists the routes."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from service import problems

_METHODS = ("get", "put", "post", "delete")
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "dt{margin-top:.9rem}dd{margin:0 0 0 1.5rem}code{overflow-wrap:anywhere}"
)

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)


def install(app: FastAPI) -> None:
    """Serve the document and the page from an app."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's documented way

    @app.get("/docs", include_in_schema=False)
    async def get_docs() -> HTMLResponse:
        """List the routes."""
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": _POLICY})


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


def page(document: dict[str, Any]) -> str:
    """Return an HTML page, without scripts, that lists the routes."""
    rows = "".join(
        f"<dt><code>{method.upper()} {escape(path)}</code></dt>"
        f"<dd>{_prose(operation.get('description', ''))}</dd>"
        for path, item in document["paths"].items()
        for method, operation in item.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        "<title>bnrecal API</title>"
        f"<style>{_STYLE}</style><h1>bnrecal {escape(document['info']['version'])}</h1>"
        '<p>The OpenAPI document is <a href="/openapi.json"><code>/openapi.json</code></a>.</p>'
        f"<dl>{rows}</dl></html>\n"
    )


def _prose(description: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(description))


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
