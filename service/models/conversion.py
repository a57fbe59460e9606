"""Convert an uploaded file to the ONNX file that is stored."""

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
    """Yield the uploaded file or, for an archive, the ONNX file that it was converted to.

    Raises:
        RefusedError: the file is not accepted.
        WorkerDiedError, WorkerDeadlineError, CapacityError: no worker could convert it.
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
