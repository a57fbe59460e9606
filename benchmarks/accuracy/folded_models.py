"""A folded model, given BatchNorm layers from source samples, against the unfolded one.

`python -m benchmarks.accuracy.folded_models`. It needs Debian's tuxpaint-stamps-default and the
packages of requirements-models.txt. The digits are counted in errors. MobileNetV2 has no labels
here: its two results are compared by their predictions. Its ImageNet images are not at hand
either, so that its source domain is made: the network is first recalibrated to photographs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

import bn_ops
from benchmarks.accuracy.data import digit_domains
from benchmarks.accuracy.networks import DEFAULT_CACHE, trained
from benchmarks.accuracy.photographs import corrupt_photographs, read_photographs
from benchmarks.accuracy.results import replace_marked, write_results
from bn_ops.exporting import export
from bn_ops.onnx_files.session import session
from examples.digits.train import MnistResNet
from tests.support import real_models

if TYPE_CHECKING:
    import onnx

PAGE = Path(__file__).parents[2] / "docs" / "folded-models.md"

SEEDS = (0, 1, 2)
SOURCE_SAMPLES = (64, 256, 1024)
TARGET_SAMPLES = (16, 64, 256, 1024)
BATCH = 64

PHOTO_SIZE = 96
PHOTOS = 64
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "dark", "tint", "camera")

Row = dict[str, Any]
Images = NDArray[np.float32]


def main() -> None:
    """Measure, write the rows, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    options = parser.parse_args()
    began = time.perf_counter()
    rows: list[Row] = []
    for row in chain(digits(options.cache), photographs()):
        print(row, flush=True)
        rows.append(row)
    print(write_results("folded-models", rows, seconds=time.perf_counter() - began))
    replace_marked("folded-models", PAGE, _tables(rows))


def _tables(rows: list[Row]) -> str:
    digit_rows = [row for row in rows if row["network"] == "digits"]
    columns = ["source", "unfolded", *(f"folded, {n} source samples" for n in SOURCE_SAMPLES)]
    lines = [
        "Error in percent on scikit-learn's digits, mean over three networks trained on MNIST:",
        "",
        "| target samples | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for count in TARGET_SAMPLES:
        here = [row for row in digit_rows if row["target_samples"] == count]
        means = [f"{np.mean([row[column] for row in here]):.1f}" for column in columns]
        lines.append(f"| {count} | " + " | ".join(means) + " |")
    lines += [
        "",
        (
            f"MobileNetV2, {PHOTOS} photographs each as source and target, share of equal top-1 "
            "predictions with the recalibrated unfolded network, in percent. The stored statistics "
            "are those of one set of photographs; the layers were inserted with the same set, or "
            "with another one:"
        ),
        "",
        "| corruption | source as it is | folded, same set | folded, other set |",
        "|---|---|---|---|",
    ]
    photos = [row for row in rows if row["network"] == "MobileNetV2"]
    for name in CORRUPTIONS:
        same, other = (row for row in photos if row["corruption"] == name)
        lines.append(
            f"| {name} | {same['agreement_without']} | {same['agreement']} | {other['agreement']} |"
        )
    return "\n".join(lines)


def digits(cache: Path) -> Iterator[Row]:
    """Count errors on scikit-learn's digits of three networks trained on MNIST."""
    mnist, domains = digit_domains(4_500)
    domain = domains[0]
    for seed in SEEDS:
        module = MnistResNet().eval()
        module.load_state_dict(trained(cache, "digits", mnist, seed=seed, epochs=3))
        unfolded = export(module, (torch.zeros(2, 1, 28, 28),))
        folded = bn_ops.fold(unfolded).model
        for count in TARGET_SAMPLES:
            target = _batches(domain.stream.images[:count])
            test = (domain.test.images, domain.test.labels)
            row: Row = {
                "network": "digits",
                "seed": seed,
                "target_samples": count,
                "source": _error(unfolded, *test),
                "unfolded": _error(_recalibrated(unfolded, target), *test),
            }
            for source in SOURCE_SAMPLES:
                inserted = bn_ops.insert_batchnorm(folded, _batches(mnist.images[:source]))
                error = _error(_recalibrated(inserted.model, target), *test)
                row[f"folded, {source} source samples"] = error
            yield row


def _batches(images: Images) -> list[Images]:
    return [images[i : i + BATCH] for i in range(0, len(images), BATCH)]


def _recalibrated(model: onnx.ModelProto, target: list[Images]) -> onnx.ModelProto:
    recalibrated: onnx.ModelProto = bn_ops.recalibrate(model, target, threads=1).model
    return recalibrated


def _outputs(model: onnx.ModelProto, images: Images) -> NDArray[np.float32]:
    runner = session(model, threads=1)
    name = model.graph.input[0].name
    return np.concatenate([runner.run(None, {name: b})[0] for b in _batches(images)]).astype(
        np.float32
    )


def _error(model: onnx.ModelProto, images: Images, labels: NDArray[np.int64]) -> float:
    predicted = _outputs(model, images).argmax(axis=1)
    return round(100 * float((predicted != labels).mean()), 2)


def photographs() -> Iterator[Row]:
    """Compare predictions of MobileNetV2 on photographs under corruptions."""
    pictures = read_photographs(3 * PHOTOS, PHOTO_SIZE)
    training, source, stream = (pictures[i::3] for i in range(3))
    module = real_models.mobilenet_v2()
    published = _any_size(export(module, (torch.zeros(2, 3, 224, 224),)))
    unfolded = _recalibrated(published, _batches(_normalized(training)))
    folded = bn_ops.fold(unfolded).model
    for kind, samples in (("same", training), ("other", source)):
        inserted = bn_ops.insert_batchnorm(folded, _batches(_normalized(samples)), threads=1)
        for name in CORRUPTIONS:
            target = _normalized(corrupt_photographs(stream, name))
            left = _outputs(_recalibrated(unfolded, _batches(target)), target)
            right = _outputs(_recalibrated(inserted.model, _batches(target)), target)
            before = _outputs(unfolded, target)
            yield {
                "network": "MobileNetV2",
                "source_photographs": kind,
                "corruption": name,
                "agreement": round(100 * float((left.argmax(1) == right.argmax(1)).mean()), 1),
                "agreement_without": round(
                    100 * float((left.argmax(1) == before.argmax(1)).mean()), 1
                ),
                "relative_difference": float(f"{np.abs(left - right).max() / left.std():.2g}"),
            }


def _normalized(pictures: NDArray[np.uint8]) -> Images:
    levels = bn_ops.Preprocess.preset("imagenet").levels()
    return np.stack([levels[c][pictures[..., c]] for c in range(3)], axis=1)


def _any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for axis, name in ((2, "h"), (3, "w")):
        dimensions[axis].dim_param = name
    return model


if __name__ == "__main__":
    main()
