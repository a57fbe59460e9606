"""Predict a few samples with the model before and after a recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bn_ops.core.signature import check_batch
from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.class_outputs import has_classes, probabilities_of
from bn_ops.errors import OptionError
from bn_ops.onnx_files.session import session
from bn_ops.preprocess import preprocess_from_json
from service.formats.layout import inputs_from_json
from service.formats.registry import Arrays
from service.workers.child.samples import holds_images, read_arrays, read_images
from service.workers.messages import WorkerTask

TOP = 3
_TABLE_RANK = 2


def predict(task: WorkerTask) -> dict[str, Any]:
    """Return the members of `service.samples.schemas.PredictionsOut`.

    Raises:
        BatchMalformedError: the file is not one of its format.
        ImageError: no image can be used.
        BatchError: the samples do not fit the model.
        OptionError: the file holds images, and the recalibration has no preprocessing.
    """
    names, batches, skipped = _samples(task)
    inputs = inputs_from_json(task.inputs)
    for part in batches:
        check_batch(inputs, part, batch=None)
    threads = task.limits.threads or None
    before = _tables(task.model, batches, threads)
    after = _tables(task.recalibrated, batches, threads)
    # Folding keeps the outputs and their order.
    output = next((place for place in before if place in after), None)
    rows: list[dict[str, Any]] = []
    if output is not None:
        rows = [
            {"name": name, "before": _top(left), "after": _top(right)}
            for name, left, right in zip(names, before[output], after[output], strict=True)
        ]
    classes = None if output is None else int(before[output].shape[1])
    return {"classes": classes, "samples": rows, "skipped": skipped}


def _samples(task: WorkerTask) -> tuple[list[str], list[Arrays], list[dict[str, str]]]:
    """Return the names of the samples, batches of one sample, and the skipped images."""
    inputs = inputs_from_json(task.inputs)
    if not holds_images(task):
        batches = [
            {name: array[number : number + 1] for name, array in part.items()}
            for part in read_arrays(task)
            for number in range(min((len(array) for array in part.values()), default=0))
        ]
        return [f"sample {number}" for number in range(len(batches))], batches, []
    form = task.options.get("preprocess")
    if form is None:
        raise OptionError("the recalibration was created without preprocess and accepts no images")
    images = read_images(task)
    found = images.usable(preprocess_from_json(form))
    names = [name for name, _ in found]
    return names, [{inputs[0].name: array[None]} for _, array in found], images.skipped_json()


def _tables(model: str, batches: Sequence[Arrays], threads: int | None) -> dict[int, Float64Array]:
    """Return the class probabilities, (n, K), of each output that is a table, by its position."""
    opened = session(model, threads=threads)
    found: dict[int, list[Float64Array]] = {}
    for part in batches:
        for place, array in enumerate(opened.run(None, part)):
            if array.ndim == _TABLE_RANK and has_classes(array) and len(array) == 1:
                found.setdefault(place, []).append(probabilities_of(array.astype(np.float64)))
    return {
        place: np.concatenate(rows) for place, rows in found.items() if len(rows) == len(batches)
    }


def _top(row: Float64Array) -> list[dict[str, float | int]]:
    """Return the most probable classes; empty where the probabilities are not finite."""
    if not np.isfinite(row).all():
        return []
    order = np.argsort(-row, kind="stable")[:TOP]
    return [{"index": int(index), "probability": float(row[index])} for index in order]
