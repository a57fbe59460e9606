"""The dispatcher as a parameter of routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.recalibrations.dispatch import Dispatcher


async def _dispatcher(request: Request) -> Dispatcher:
    """Return the app's dispatcher.

    A coroutine although it awaits nothing: the framework runs plain functions in a thread.
    """
    dispatcher = request.app.state.dispatcher
    assert isinstance(dispatcher, Dispatcher)
    return dispatcher


Runs = Annotated[Dispatcher, Depends(_dispatcher)]
