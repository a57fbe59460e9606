"""Run one recalibration and write its results to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import bn_ops
from bn_ops.core.statistics import RunningStatistics
from bn_ops.diagnostics.report import Report, SkippedSample
from bn_ops.onnx_files.large_models import serialized
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
    (output / FOLDED).write_bytes(serialized(artifact.model))
    (output / UNFOLDED).write_bytes(serialized(artifact.unfolded))
    write_statistics(output / STATISTICS, artifact.statistics)
    report = _described(artifact.report, task.options.get("report") or {})
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
