"""How many wrong folds verification detects, by the number of samples of the stream.

`python -m benchmarks.folding.detection [NETWORK …]` runs the mutants of
`benchmarks.folding.mutants` on trained networks and writes
`benchmarks/results/fold-detection.json` and the table of `docs/folding.md`. Networks that are not
named keep their rows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

import bn_ops
from benchmarks.accuracy.data import digit_domains
from benchmarks.accuracy.photographs import read_photographs
from benchmarks.accuracy.results import RESULTS, replace_marked
from benchmarks.folding.mutants import Layer, layers_of, mutants
from benchmarks.networks import build
from bn_ops.folding import Folded
from bn_ops.verification.reference import Reference
from tests.support.real_models import efficientnet_lite0, mobilenet_v2

__all__ = ["main", "table"]

STREAM = (4, 32, 128)
LAYERS = "layers"
"""The key of the first number of samples with the outputs of layers."""

SIZE = 96
PAGE = Path(__file__).parents[2] / "docs" / "folding.md"
FILE = RESULTS / "fold-detection.json"
DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "mnist_resnet.onnx"

_LAYERS = 3

Images = NDArray[np.float32]
Row = dict[str, Any]


def main(names: Sequence[str]) -> None:
    """Measure the named networks, or all, and write rows and table."""
    rows: list[Row] = json.loads(FILE.read_text("utf-8"))["rows"] if FILE.exists() else []
    for name in names or NETWORKS:
        rows = [row for row in rows if row["network"] != name] + detect(name)
        lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
        text = f'{{\n "images": {max(STREAM)},\n "rows": [\n{lines}\n ]\n}}\n'
        FILE.write_text(text, encoding="utf-8")
        replace_marked("detection", PAGE, table(rows))


def detect(name: str) -> list[Row]:
    """Return one row for each mutant of a network: by which check it is detected."""
    # One given sample in float64 and no random one, as for images of full size.
    with mock.patch("bn_ops.verification.float64.evaluate._USUAL_WORK", 0):
        return _detect(name)


def _detect(name: str) -> list[Row]:
    model, images = NETWORKS[name]()
    layers = layers_of(model)
    folded = bn_ops.fold(model)
    with mock.patch("bn_ops.verification.reference.preserved_outputs", return_value=[]):
        references = {
            str(samples): Reference(model, [images[:samples]], threads=1, seed=0)
            for samples in STREAM
        }
    references[LAYERS] = Reference(model, [images[: STREAM[0]]], threads=1, seed=0)
    for reference in references.values():
        parity = reference.verify(folded)
        if not parity.passed:
            raise AssertionError(f"{name}: the right fold fails: {parity}")
    rows: list[Row] = []
    active = activity(model, layers, images)
    for mutant in mutants(folded, layers, active, count=_LAYERS, seed=0):
        row: Row = {"network": name, "fault": mutant.fault, "layer": mutant.layer}
        found = False
        for key, reference in references.items():
            # What the outputs of a few samples show is found with more samples, too.
            if key == LAYERS:
                found = bool(row[str(STREAM[0])])
            found = found or not _passes(reference, mutant.folded, layers=key == LAYERS)
            row[key] = found
        rows.append(row)
        print(*row.values(), flush=True)
    return rows


def _passes(reference: Reference, folded: Folded, *, layers: bool) -> bool:
    if layers:
        return reference.verify(folded).passed
    with mock.patch("bn_ops.verification.exact_comparison.worst_weight", return_value=(0.0, "")):
        return reference.verify(folded).passed


def activity(
    model: onnx.ModelProto, layers: Sequence[Layer], images: Images
) -> dict[str, NDArray[np.intp]]:
    """Return the number of images in which each channel is positive behind its activation."""
    observed = [layer for layer in layers if layer.activated]
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    known = {value.name for value in extended.graph.output}
    for layer in observed:
        if layer.activated not in known:
            extended.graph.output.append(onnx.ValueInfoProto(name=layer.activated))
    session = ort.InferenceSession(extended.SerializeToString())
    feed, outputs = session.get_inputs()[0].name, [layer.activated for layer in observed]
    counts = {layer.node: np.zeros(layer.channels, dtype=np.intp) for layer in observed}
    for start in range(0, len(images), 8):
        found = session.run(outputs, {feed: images[start : start + 8]})
        for layer, values in zip(observed, found, strict=True):
            counts[layer.node] += (np.asarray(values).max(axis=(2, 3)) > 0).sum(axis=0)
    return counts


def _digits() -> tuple[onnx.ModelProto, Images]:
    images = digit_domains(4_500)[0].images[: max(STREAM)]
    return onnx.load(DIGITS), np.ascontiguousarray(images, dtype=np.float32)


def _photographs() -> Images:
    pixels = read_photographs(max(STREAM), SIZE)
    scaled = (pixels.astype(np.float32) - np.float32(127)) / np.float32(128)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def _exported(build_network: Callable[[], torch.nn.Module], *, measured: bool) -> Any:
    def make() -> tuple[onnx.ModelProto, Images]:
        torch.manual_seed(0)
        network, images = build_network().eval(), _photographs()
        if measured:
            bn_ops.recalibrate(network, [images])
        return bn_ops.export(network, torch.from_numpy(images[:2])), images

    return make


NETWORKS: Mapping[str, Callable[[], tuple[onnx.ModelProto, Images]]] = {
    "digits": _digits,
    "MobileNetV2": _exported(mobilenet_v2, measured=False),
    "EfficientNet-Lite0": _exported(efficientnet_lite0, measured=False),
    "ResNet-18": _exported(lambda: build("resnet18"), measured=True),
}


def table(rows: Sequence[Row]) -> str:
    """Render the number of detected mutants of each fault and number of samples."""
    keys = [*map(str, STREAM), LAYERS]
    head = ["fault in one layer", "mutants", *(f"outputs, {samples} samples" for samples in STREAM)]
    head.append(f"outputs and layers, {STREAM[0]} samples")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for fault in dict.fromkeys(row["fault"] for row in rows):
        chosen = [row for row in rows if row["fault"] == fault]
        found = [str(sum(row[key] for row in chosen)) for key in keys]
        lines.append(f"| {' | '.join([fault, str(len(chosen)), *found])} |")
    found = [str(sum(row[key] for row in rows)) for key in keys]
    lines.append(f"| all | {len(rows)} | {' | '.join(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    started = time.perf_counter()
    main(sys.argv[1:])
    print(f"{time.perf_counter() - started:.0f} s")
