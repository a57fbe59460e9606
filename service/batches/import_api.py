"""The routes that import batches by reference."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from service import problems
from service.batches import importing
from service.batches.importing import Imported, Reference
from service.context import Context, Ctx
from service.repositories import recalibrations
from service.repositories.batches import MAX_INDEX
from service.repositories.records import Stream
from service.web.parameters import RecalibrationId

MEDIA_TYPE = "application/x-ndjson"
router = APIRouter(prefix="/v1/recalibrations/{recalibration}", tags=["batches"])

# All of them fit into a JSON body of the size that the server accepts.
MAX_URLS = 400
Url = Annotated[str, Field(min_length=1, max_length=2000)]


class ImportIn(BaseModel):
    """Objects to import."""

    urls: list[Url] = Field(
        min_length=1,
        max_length=MAX_URLS,
        description="Objects in stream order, below a prefix that the server allows. The suffix "
        "of the name decides the format. `{000..999}` means all numbers of a range.",
        examples=[["s3://bucket/shards/{000..999}.tar"]],
    )
    first: int = Field(
        default=0, ge=0, le=MAX_INDEX, description="Index of the batch of the first object."
    )
    compare: bool = Field(
        default=False,
        description="Read an object also if its index has a batch of the same size, and report a "
        "conflict if the content differs.",
    )


class ImportedOut(BaseModel):
    """A line of the response: what became of one object."""

    url: str
    index: int
    status: Literal["stored", "present", "failed"] = Field(
        description="`present`: the index had this batch before."
    )
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    error: dict[str, Any] | None = Field(default=None, description="A problem document.")

    @staticmethod
    def of(found: Imported) -> ImportedOut:
        """Return the wire form."""
        reference, batch = found.reference, found.batch
        if batch is None:
            assert found.error is not None  # one of both is set
            error = problems.from_error(found.error)
            return ImportedOut(
                url=reference.url, index=reference.index, status="failed", error=error
            )
        return ImportedOut(
            url=reference.url,
            index=reference.index,
            status="stored" if found.new else "present",
            samples=batch.samples,
            bytes=batch.bytes,
            sha256=batch.sha256,
        )


class ImportSummaryOut(BaseModel):
    """The last line of the response."""

    stored: int
    present: int
    failed: int
    remaining: int = Field(description="Objects that were not tried; send the request again.")


_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        "description": "A line of JSON for each object as soon as it is stored or has failed, an "
        "`ImportedOut`, and at last an `ImportSummaryOut`.",
    }
}


@router.post("/batches:import", response_class=Response, responses=_LINES)
async def import_batches(context: Ctx, recalibration: RecalibrationId, asked: ImportIn) -> Response:
    """Import objects as batches; the same request continues an import that was interrupted."""
    return await _import(context, recalibration, Stream.TARGET, asked)


@router.post("/source-batches:import", response_class=Response, responses=_LINES)
async def import_source_batches(
    context: Ctx, recalibration: RecalibrationId, asked: ImportIn
) -> Response:
    """Import objects as batches of the source stream."""
    return await _import(context, recalibration, Stream.SOURCE, asked)


async def _import(
    context: Context, recalibration: str, stream: Stream, asked: ImportIn
) -> Response:
    # Many objects take a noticeable part of a second.
    wanted = await asyncio.to_thread(importing.references, asked.urls, asked.first)
    found = await context.ledger.read(lambda tx: recalibrations.get(tx, recalibration))
    found.require_open()
    await asyncio.to_thread(_require_allowed, context, wanted)
    return StreamingResponse(
        _lines(context, recalibration, stream, wanted, compare=asked.compare),
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store"},
    )


def _require_allowed(context: Context, wanted: Sequence[Reference]) -> None:
    """Check, before anything is stored, that all objects may be imported."""
    for one in wanted:
        context.imports.find(one.url)


async def _lines(
    context: Context,
    recalibration: str,
    stream: Stream,
    wanted: Sequence[Reference],
    *,
    compare: bool,
) -> AsyncIterator[str]:
    counts: Counter[str] = Counter()
    async for one in importing.import_batches(
        context, recalibration, stream, wanted, compare=compare
    ):
        line = ImportedOut.of(one)
        counts[line.status] += 1
        yield line.model_dump_json(exclude_none=True) + "\n"
    summary = ImportSummaryOut(
        stored=counts["stored"],
        present=counts["present"],
        failed=counts["failed"],
        remaining=len(wanted) - counts.total(),
    )
    yield summary.model_dump_json() + "\n"
