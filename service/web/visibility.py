"""One check for every route: whoever asks sees the thing that the path names, or it is not there.

It stands before all routes and goes by the names of path parameters, so a route that is added
later is covered without a line of its own.
"""

from __future__ import annotations

from fastapi import Request

from service.context import Ctx
from service.repositories import models, recalibrations


async def visible(request: Request, context: Ctx) -> None:
    """Refuse what belongs to others as if it were not there.

    Raises:
        NotFoundError: there is no such thing, or it is not the caller's.
    """
    scope = context.caller.scope
    if scope is None:
        return
    recalibration = request.path_params.get("recalibration")
    if recalibration is not None:
        await context.ledger.read(lambda tx: recalibrations.get(tx, recalibration, owner=scope))
    model = request.path_params.get("model")
    if model is not None:
        await context.ledger.read(lambda tx: models.get(tx, model, owner=scope))
