"""A fast in-process executor that computes only digests and fails on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import RefusedError, WorkerDiedError
from service.workers.messages import CONVERTED, RESULTS
from service.workers.protocol import (
    BatchToValidate,
    Job,
    MeasuredLayer,
    OnProgress,
    Outcome,
    Progress,
    SampleFile,
)

GOOD_MODEL = b"good model"
TWO_INPUTS = b"model with two inputs"
FOLDED_MODEL = b"folded model"
ARCHIVE = b"PK\x03\x04"
VERDICT = {
    "code": "check-with-labels",
    "sentence": "Check the model with labels.",
    "reasons": [{"code": "too-few-samples", "text": "There are 2 samples."}],
    "next_steps": ["Send more samples."],
}
UNSAFE = ARCHIVE + b"unsafe"


PREVIEW: dict[str, Any] = {
    "samples": 2,
    "skipped": [],
    "preprocess": None,
    "presets": {},
    "ranking": [],
    "check": None,
    "pictures": [],
}
PREDICTIONS: dict[str, Any] = {
    "classes": 2,
    "samples": [
        {
            "name": "sample 0",
            "before": [{"index": 0, "probability": 0.75}],
            "after": [{"index": 1, "probability": 0.5}],
        }
    ],
    "skipped": [],
}


def _tensor(name: str) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": ["N", 3]}


def describe_bytes(content: bytes) -> dict[str, Any]:
    """Describe a fake model; reject bytes that start with `bad`.

    A model that starts with `folded` has no layers and needs source batches.
    """
    if content.startswith((b"bad", ARCHIVE)):
        raise RefusedError("this is not an ONNX file", refusal="model-invalid")
    names = ["x", "mask"] if content.startswith(TWO_INPUTS) else ["x"]
    folded = content.startswith(b"folded")
    layer = {"name": "bn1", "channels": 3, "eps": 1e-5, "affine": True, "input_rank": 2}
    return {
        "inputs": [_tensor(name) for name in names],
        "outputs": [_tensor("y")],
        "layers": [] if folded else [layer | {"reason": None}],
        "warnings": ["its layers are folded"] if folded else [],
        "without_batchnorm": "model-already-folded" if folded else None,
    }


class FakeExecutor:
    """Executor whose result is the digest of the batches, so that equal streams give equal bytes.

    Attributes:
        deaths: number of runs that crash before one succeeds.
        refusal: error code of bn_ops with which every run fails, or None.
        verdict: what each run reports as its verdict.
        hold: if set, a run waits in its first phase until it is canceled.
        runs: number of started jobs.
        layers: what a run reports as measured.
        jobs: started jobs.
        killed: canceled runs.
        describing: inspected models.
        converting: archives converted to ONNX.
        seen: samples of previews and predictions.
        checking: validated batches; a prefix `bad` is rejected, others have 2 samples.
    """

    def __init__(self) -> None:
        self.deaths = 0
        self.refusal: str | None = None
        self.verdict: dict[str, Any] | None = VERDICT
        self.layers: list[MeasuredLayer] = []
        self.hold = False
        self.runs = 0
        self.jobs: list[Job] = []
        self.killed = 0
        self.describing = 0
        self.checking = 0
        self.converting = 0
        self.seen: list[SampleFile] = []

    async def inspect(self, model: Path) -> dict[str, Any]:
        self.describing += 1
        return describe_bytes(await asyncio.to_thread(model.read_bytes))

    async def convert(self, model: Path, output: Path) -> Path:
        """Return the bytes after the first four of the archive as the ONNX file."""
        self.converting += 1
        content = await asyncio.to_thread(model.read_bytes)
        if content.startswith(UNSAFE):
            raise RefusedError("the .pt2 file holds a pickle", refusal="model-unsafe")
        file = output / CONVERTED
        await asyncio.to_thread(file.write_bytes, content[4:])
        return file

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        self.runs += 1
        self.jobs.append(job)
        try:
            await on_progress(Progress(phase="reading", done=0, total=job.total))
            if self.hold:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.killed += 1
            raise
        if self.deaths:
            self.deaths -= 1
            raise WorkerDiedError("the worker was killed by SIGKILL")
        if self.refusal is not None:
            raise RefusedError("a batch is at fault", refusal=self.refusal, batch=1, input="x")
        digest = await _digest(job)
        await on_progress(
            Progress(
                phase="verifying",
                done=1,
                total=1,
                layers=tuple(self.layers),
                layers_total=len(self.layers),
            )
        )
        options = {key: value for key, value in job.options.items() if key != "report"}
        for name in RESULTS:
            content = json.dumps({"digest": digest, "options": options, "file": name})
            (job.output / name).write_text(content)
        return Outcome(verdict=self.verdict)

    async def validate(self, batch: BatchToValidate) -> int:
        self.checking += 1
        if batch.file.read_bytes().startswith(b"bad"):
            raise RefusedError("no such archive", refusal="batch-malformed")
        return 2

    async def preview(self, samples: SampleFile) -> dict[str, Any]:
        if (await asyncio.to_thread(samples.file.read_bytes)).startswith(b"bad"):
            raise RefusedError("no such archive", refusal="batch-malformed")
        self.seen.append(samples)
        return dict(PREVIEW)

    async def predict(self, samples: SampleFile, recalibrated: Path) -> dict[str, Any]:
        assert await asyncio.to_thread(recalibrated.read_bytes)
        self.seen.append(samples)
        return dict(PREDICTIONS)

    async def close(self) -> None:
        return

    async def sandbox_status(self) -> Mapping[str, Any]:
        return {"fake": True}


async def _digest(job: Job) -> str:
    digest = hashlib.sha256(job.model.read_bytes())
    async for page in job.batches():
        for batch in page:
            start = batch.start or 0
            content = (job.batch_folder / batch.name).read_bytes()
            digest.update(content[start : start + batch.bytes])
    return digest.hexdigest()
