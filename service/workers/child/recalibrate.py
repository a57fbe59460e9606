"""Run one recalibration and leave its results in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import bn_ops
from bn_ops.core.statistics import RunningStatistics
from bn_ops.onnx_files.large_models import serialized
from service.workers.child.channel import Channel
from service.workers.child.read_batches import BatchReader, read_batches
from service.workers.messages import Piece, Spec
from service.workers.protocol import FOLDED, REPORT_HTML, REPORT_JSON, STATISTICS, UNFOLDED


def adapt(spec: Spec, files: Sequence[Piece], channel: Channel) -> None:
    """Recalibrate, fold and verify; write `folded.onnx` and the other results."""
    output = Path(spec.output)
    reader = BatchReader.of(spec)
    artifact = bn_ops.adapt(
        spec.model,
        read_batches(Path(spec.batch_folder), files, reader),
        method=spec.options["method"],
        estimator=bn_ops.estimator_from_json(spec.options["estimator"]),
        layers=spec.options["layers"],
        budget=bn_ops.Budget(
            memory_bytes=spec.limits.frontier_memory_bytes,
            spill_bytes=spec.limits.frontier_spill_bytes,
            spill_folder=output,
        ),
        progress=lambda step: channel.progress(step.phase, step.done, step.total),
        threads=spec.limits.threads or None,
    )
    (output / FOLDED).write_bytes(serialized(artifact.model))
    (output / UNFOLDED).write_bytes(serialized(artifact.unfolded))
    write_statistics(output / STATISTICS, artifact.statistics)
    (output / REPORT_JSON).write_text(
        json.dumps(artifact.report.to_json(), indent=1), encoding="utf-8"
    )
    (output / REPORT_HTML).write_text(bn_ops.render_html(artifact.report), encoding="utf-8")


def write_statistics(path: Path, statistics: Mapping[str, RunningStatistics]) -> None:
    """Write running statistics as safetensors: float64 vectors of shape (C,) for each layer."""
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {}
    for layer in sorted(statistics):
        tensors[f"{layer}.running_mean"] = np.ascontiguousarray(statistics[layer].mean)
        tensors[f"{layer}.running_var"] = np.ascontiguousarray(statistics[layer].var)
    save_file(tensors, path)
