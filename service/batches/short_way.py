"""The ordinary PUT of a batch, answered before the framework looks for a route.

Most requests are of this one kind, and a small batch costs more in finding its route, solving
dependencies and building a response than in being stored. Whatever is out of the ordinary goes the
general way, which the documentation describes; a test holds the answers of both equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bn_ops.errors import BnOpsError
from service.batches import operations
from service.batches.incoming import upload_of
from service.batches.schemas import BatchOut
from service.context import context_of
from service.errors import ServiceError
from service.web.problem_responses import refused
from service.web.visibility import visible

# An index as every client writes it, and within bounds.
_PATH = re.compile(
    "/v1/recalibrations/(?P<recalibration>[^/]+)/batches/(?P<index>0|[1-9][0-9]{0,6})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """What the log and the metrics want to know of a route."""

    path: str


_ROUTE = _Route(path="/v1/recalibrations/{recalibration}/batches/{index}")


class ShortWay:
    """Stores ordinary batches itself and passes everything else on; inside all other layers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        path = None
        if scope["type"] == "http" and scope["method"] == "PUT":
            path = _PATH.fullmatch(scope["path"])
        if path is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        scope["path_params"] = path.groupdict()
        request = Request(scope, receive)
        try:
            response = await _stored(request)
        except (ServiceError, BnOpsError) as error:
            response = refused(scope, error)
        await response(scope, receive, send)


async def _stored(request: Request) -> Response:
    context = await context_of(request)
    await visible(request, context)
    upload = upload_of(
        context,
        request,
        request.path_params["recalibration"],
        index=int(request.path_params["index"]),
        digest=request.headers.get("content-digest"),
    )
    batch, new = await operations.put(context, upload)
    return Response(
        BatchOut.of(batch).model_dump_json(),
        status_code=201 if new else 200,
        media_type="application/json",
    )
