"""From an uploaded file to the ONNX file that is kept."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.context import Context

_ZIP = b"PK\x03\x04"


@asynccontextmanager
async def as_onnx(context: Context, uploaded: Path) -> AsyncIterator[Path]:
    """Yield the uploaded file, or, where it is an archive, the ONNX file that it was turned into.

    Raises:
        RefusedError: the worker does not take it.
        WorkerDiedError, WorkerDeadlineError, CapacityError: no worker could do it.
    """
    if await asyncio.to_thread(_head, uploaded) != _ZIP:
        yield uploaded
        return
    folder = await asyncio.to_thread(context.blobs.workspace)
    try:
        yield await context.executor.convert(uploaded, folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_ZIP))
