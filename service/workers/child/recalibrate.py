"""Run one recalibration and write its results to a folder; the stream may be read in shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import bn_ops
from bn_ops.adaptation import adapt_with
from bn_ops.core.options import Execution, RecalibrateOptions
from bn_ops.core.statistics import RunningStatistics
from bn_ops.diagnostics.report import Report, SkippedSample
from bn_ops.onnx_files.deployment.request import Deployment
from bn_ops.onnx_files.large_models import serialized
from service.errors import WorkerError
from service.workers.child.channel import Channel
from service.workers.child.read_batches import BatchReader, read_batches
from service.workers.messages import (
    FOLDED,
    REPORT_HTML,
    REPORT_JSON,
    STATISTICS,
    UNFOLDED,
    StoredBatchRef,
    WorkerTask,
    read_frame,
)


def recalibrate(
    task: WorkerTask, batches: Sequence[StoredBatchRef], channel: Channel
) -> dict[str, Any]:
    """Recalibrate, fold and verify; write `folded.onnx` and the other results.

    Args:
        task: the task.
        batches: the batches of the target stream, then those of the source stream.
        channel: receives the progress.

    Returns:
        The report's verdict in JSON form, or None, as `verdict`.
    """
    output, folder = Path(task.output), Path(task.batch_folder)
    reader = BatchReader.of(task)
    target, source = batches[: task.total], batches[task.total :]
    artifact = bn_ops.adapt(
        task.model,
        read_batches(folder, target, reader),
        source_batches=read_batches(folder, source, reader) if source else None,
        method=task.options["method"],
        estimator=bn_ops.estimator_from_json(task.options["estimator"]),
        layers=task.options["layers"],
        budget=bn_ops.Budget(
            memory_bytes=task.limits.frontier_memory_bytes,
            spill_bytes=task.limits.frontier_spill_bytes,
            spill_folder=output,
        ),
        progress=lambda step: channel.progress(step.phase, step.done, step.total),
        on_layer=lambda layer: channel.layer(layer.name, layer.drift, layer.total),
        threads=task.limits.threads or None,
        allow_mismatch=task.options.get("allow_mismatch", False),
        opset=task.options.get("opset"),
        target=task.options.get("target"),
        max_samples=task.options.get("max_samples"),
        seed=task.options.get("seed", 0),
    )
    return _write(output, artifact, task.options)


def assemble(task: WorkerTask, channel: Channel) -> dict[str, Any]:
    """Do the same as `recalibrate` with a stream that shards measure elsewhere.

    Args:
        task: the task; its total is the number of shards.
        channel: requests what the shards measure, and receives the progress.
    """
    options = task.options
    asked = RecalibrateOptions(
        estimator=bn_ops.estimator_from_json(options["estimator"]),
        layers=options["layers"],
        progress=lambda step: _report_unless_measuring(channel, step),
        on_layer=lambda layer: channel.layer(layer.name, layer.drift, layer.total),
        threads=task.limits.threads or None,
        compare=True,
        allow_mismatch=options.get("allow_mismatch", False),
        shards=_RequestedShards(channel, task.total, options["execution"]),
    )
    deployment = Deployment(opset=options.get("opset"), target=options.get("target"))
    artifact = adapt_with(task.model, (), asked, deployment, threads=asked.threads)
    return _write(Path(task.output), artifact, options)


def _report_unless_measuring(channel: Channel, step: bn_ops.Progress) -> None:
    """Report the progress of the phases after those that the shards report."""
    if step.phase not in {"reading", "measuring"}:
        channel.progress(step.phase, step.done, step.total)


class _RequestedShards:
    """Implements `bn_ops.core.options.ShardedStream`: the server asks the shards.

    Args:
        channel: sends requests.
        shards: number of shards.
        execution: how every shard runs the network.
    """

    def __init__(self, channel: Channel, shards: int, execution: Execution) -> None:
        self.execution = execution
        self._channel = channel
        self._shards = shards

    def step(self, settled: bytes | None) -> list[bytes]:
        """Return the moments of all shards of the next level."""
        return self._requested("step", settled or b"")

    def observations(self) -> list[bytes]:
        """Return the observation of each shard."""
        return self._requested("observation")

    def first_samples(self) -> bytes:
        """Return the first samples of the stream."""
        (found,) = self._requested("first_samples", shards=1)
        return found

    def samples(self, digests: Sequence[Sequence[bytes]]) -> list[bytes]:
        """Return samples of each shard by their digests."""
        return self._requested("samples", digests=[[one.hex() for one in d] for d in digests])

    def _requested(
        self, call: str, content: bytes = b"", *, shards: int | None = None, **members: object
    ) -> list[bytes]:
        self._channel.send(call, content, **self._channel.take_layers(), **members)
        answer = read_frame(sys.stdin.buffer)
        if answer is None or len(answer[1]) != (shards or self._shards):
            raise WorkerError("the server did not answer for each shard")
        return answer[1]


def _write(output: Path, artifact: bn_ops.Artifact, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write the results; return the report's verdict in JSON form, or None, as `verdict`."""
    (output / FOLDED).write_bytes(serialized(artifact.model))
    (output / UNFOLDED).write_bytes(serialized(artifact.unfolded))
    write_statistics(output / STATISTICS, artifact.statistics)
    report = _described(artifact.report, options.get("report") or {})
    (output / REPORT_JSON).write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    (output / REPORT_HTML).write_text(bn_ops.render_html(report), encoding="utf-8")
    return {"verdict": None if artifact.verdict is None else artifact.verdict.to_json()}


def _described(report: Report, details: Mapping[str, Any]) -> Report:
    """Return the report with the client's names; those of stored files mean nothing."""
    nameless = replace(report, origin=replace(report.origin, model_name=None))
    return nameless.described(
        model_name=details.get("model_name"),
        data_name=details.get("data_name"),
        command=details.get("command"),
        skipped_samples=tuple(
            SkippedSample(index=sample["index"], name=sample.get("name"), reason=sample["reason"])
            for sample in details.get("skipped_samples", ())
        ),
    )


def write_statistics(path: Path, statistics: Mapping[str, RunningStatistics]) -> None:
    """Write running statistics as safetensors: two float64 vectors of shape (C,) for each layer."""
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {}
    for layer in sorted(statistics):
        tensors[f"{layer}.running_mean"] = np.ascontiguousarray(statistics[layer].mean)
        tensors[f"{layer}.running_var"] = np.ascontiguousarray(statistics[layer].var)
    save_file(tensors, path)
