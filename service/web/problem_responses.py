"""Every error as a problem document, including those of the framework."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from bn_ops.errors import BnOpsError
from service import problems
from service.errors import MediaTypeError, ServiceError
from service.telemetry.logs import ID_HEADER
from service.web.media_types import media_type
from service.web.security_headers import add_security_headers

_log = logging.getLogger(__name__)

URN = "urn:bnrecal:request:"
_BY_STATUS = {
    404: "not-found",
    405: "method-not-allowed",
    412: "precondition-failed",
    413: "too-large",
    415: "media-type-unsupported",
    416: "range-unsatisfiable",
}
# After these errors the connection is closed instead of reading the rest of the body.
_CLOSING = frozenset(
    {
        "too-large",
        "body-timeout",
        "body-incomplete",
        "quota-exceeded",
        "overloaded",
        "shutting-down",
    }
)


def install(app: FastAPI) -> None:
    """Make an app answer every error with a problem document."""
    app.add_exception_handler(ServiceError, _on_known_error)
    app.add_exception_handler(BnOpsError, _on_known_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_bug)


class ProblemResponse(JSONResponse):
    """A problem document; records its code for the request log and the metrics."""

    media_type = problems.MEDIA_TYPE

    def __init__(self, document: dict[str, Any], headers: dict[str, str]) -> None:
        self._code = document["code"]
        super().__init__(document, status_code=document["status"], headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the document."""
        scope.setdefault("state", {})["problem"] = self._code
        await super().__call__(scope, receive, send)


def respond(document: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a problem document as a response."""
    found = dict(headers or {})
    if document["code"] in _CLOSING:
        found["Connection"] = "close"
    if document["code"] == "unauthenticated":
        found["WWW-Authenticate"] = "Bearer"
    if document["code"] in {"overloaded", "ledger-unavailable"}:
        found["Retry-After"] = "1"
    response = ProblemResponse(document, found)
    if "instance" in document:
        response.headers[ID_HEADER] = document["instance"].removeprefix(URN)
    add_security_headers(response.headers)  # the middleware that adds them does not see a 500
    return response


def instance_of(scope: Any) -> str | None:
    """Return the request's id as a URN."""
    found = scope.get("state", {}).get("request_id")
    return None if found is None else f"{URN}{found}"


def refused(
    scope: Scope, error: ServiceError | BnOpsError, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the response for an error of this package or of bn_ops."""
    return respond(problems.from_error(error, instance=instance_of(scope)), headers)


async def _on_known_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError | BnOpsError)
    return refused(request.scope, error)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServiceError):  # raised by `receive` while JSON was read
        return await _on_known_error(request, error.__cause__)
    code = _BY_STATUS.get(error.status_code, "request-error")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"no route matches {request.method} {request.url.path}; /docs lists the routes"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return respond(problems.document(code, detail, instance=instance_of(request.scope)), headers)


def _methods(request: Request) -> list[str]:
    """Return all methods of a path; the framework names only those of the first route."""
    scope = dict(request.scope)
    found: set[str] = set()
    for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"):
        scope["method"] = method
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            found.add(method)
    if "GET" in found:
        found.add("HEAD")
    return sorted(found)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if (wrong_type := _wrong_media_type(request, error)) is not None:
        return await _on_known_error(request, wrong_type)
    faults = validation_faults(error.errors())
    members = {"faults": faults}
    return respond(
        problems.document(
            "request-invalid",
            "; ".join(faults),
            instance=instance_of(request.scope),
            members=members,
        )
    )


def validation_faults(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return pydantic's validation errors as text, each with the path of its member."""
    return [
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
        for one in errors
        # It follows from an error of another member, which is in the list too.
        if one["type"] != "default_factory_not_called"
    ]


def _wrong_media_type(request: Request, error: RequestValidationError) -> MediaTypeError | None:
    """Return the error of a body that was not parsed because it is not declared as JSON."""
    kind = media_type(request)
    if kind == "application/json" or kind.endswith("+json"):
        return None
    if all(one["loc"] != ("body",) or one["type"] == "missing" for one in error.errors()):
        return None
    return MediaTypeError(f"this route accepts application/json, got {kind[:100]!r}")


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    # Starlette's outermost layer logs the traceback; a client never sees the text of an unexpected
    # exception.
    del error
    detail = "internal server error; the server's log has details under this request's id"
    return respond(
        problems.document(problems.INTERNAL, detail, instance=instance_of(request.scope))
    )
