"""The visibility check of all routes: a caller gets 404 for what belongs to others.

It runs before every route and uses the names of path parameters, so new routes are covered without
code of their own.
"""

from __future__ import annotations

from fastapi import Request

from service.context import Ctx
from service.repositories import models, recalibrations


async def visible(request: Request, context: Ctx) -> None:
    """Reject a path that names a resource of another owner.

    Raises:
        NotFoundError: the resource does not exist or belongs to another owner.
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
