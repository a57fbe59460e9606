"""Generated pages of docs/reference: `python -m tools.site_docs` writes them, a test compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service import problems
from tools.error_causes import CAUSES, CLIENT_CAUSES

_NOTE = "<!-- Written by tools/site_docs.py. -->\n"

_METHODS = ("get", "post", "put", "delete")


def errors_page() -> str:
    """Return the page of all error codes, each with its cause and fix."""
    parts = [
        _NOTE,
        "# Error codes\n",
        (
            "Every error has a stable code. The library raises it as `error.code` of a "
            "`bn_ops.BnOpsError`, the client as that of a `BnrecalError`, the command prints "
            "it with `--json`, and the server sends it as `code` of a problem document (RFC 9457) "
            "with the type `urn:bnrecal:problem:CODE`. A retryable error may disappear if the same "
            "request is sent again; the client does that.\n"
        ),
    ]
    for code, problem in problems.TABLE.items():
        cause = CAUSES[code]
        retry = ", retryable" if problem.retryable else ""
        parts += [
            f"## `{code}`\n",
            f"{problem.title} (HTTP {problem.status}{retry}).\n",
            f"**Cause.** {cause.cause}\n",
            f"**Fix.** {cause.fix}\n",
        ]
    parts.append("# Codes of the client only\n")
    for code, cause in CLIENT_CAUSES.items():
        parts += [f"## `{code}`\n", f"**Cause.** {cause.cause}\n", f"**Fix.** {cause.fix}\n"]
    return "\n".join(parts)


def http_page(document: Mapping[str, Any]) -> str:
    """Return the page of all routes of an OpenAPI document.

    Args:
        document: the OpenAPI document, as JSON value.
    """
    parts = [
        _NOTE,
        "# HTTP reference\n",
        (
            "All routes of the server, from its OpenAPI document ([openapi.json](../openapi.json), "
            "also served as `/openapi.json`). [The server](../service.md) explains how they work "
            "together, and [error codes](errors.md) what can go wrong.\n"
        ),
    ]
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                parts += _route(document, method.upper(), path, item[method])
    parts.append("## Objects\n")
    for name, schema in document["components"]["schemas"].items():
        parts += _object(name, schema)
    return "\n".join(parts)


def _route(
    document: Mapping[str, Any], method: str, path: str, route: Mapping[str, Any]
) -> Iterator[str]:
    yield f"## `{method} {path}`\n"
    yield f"{route.get('description') or route['summary']}\n"
    if parameters := route.get("parameters"):
        yield "| parameter | in | type | meaning |\n|---|---|---|---|"
        for one in parameters:
            known = _resolved(document, one)
            needed = ", required" if known.get("required") else ""
            kind, text = _type(known.get("schema", {})), _text(known)
            yield f"| `{known['name']}` | {known['in']}{needed} | {kind} | {text} |"
        yield ""
    if body := route.get("requestBody"):
        for media, content in body["content"].items():
            yield f"Body `{media}`: {_type(content.get('schema', {}))}\n"
    yield "| status | content | meaning |\n|---|---|---|"
    for status, answer in route["responses"].items():
        known = _resolved(document, answer)
        kinds = ", ".join(
            f"`{media}` {_type(content.get('schema', {}))}".rstrip()
            for media, content in known.get("content", {}).items()
        )
        yield f"| {status} | {kinds} | {_text(known)} |"
    yield ""


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if description := _text(schema):
        yield f"{description}\n"
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        yield "| member | type | meaning |\n|---|---|---|"
        for member, known in properties.items():
            mark = ", required" if member in required else ""
            yield f"| `{member}` | {_type(known)}{mark} | {_text(known)} |"
        yield ""


def _resolved(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference to `components`."""
    if "$ref" not in value:
        return value
    found: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Mapping[str, Any] = found
    return resolved


def _type(schema: Mapping[str, Any]) -> str:
    """Return a schema's type in a few words, with links to objects of the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("format", kind)) if kind == "string" else str(kind)


def _text(value: Mapping[str, Any]) -> str:
    """Return a description in one line of a table."""
    return " ".join(str(value.get("description", "")).split()).replace("|", "\\|")


def pages(folder: Path) -> dict[Path, str]:
    """Return the generated pages by path, for a folder of documents with `openapi.json`."""
    document = json.loads((folder / "openapi.json").read_text(encoding="utf-8"))
    return {
        folder / "reference" / "errors.md": errors_page(),
        folder / "reference" / "http.md": http_page(document),
    }


def main(folder: Path) -> int:
    """Write the generated pages of a folder of documents."""
    for path, text in pages(folder).items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or ["docs"])))
