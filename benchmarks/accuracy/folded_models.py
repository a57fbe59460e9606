"""A folded model, given BatchNorm layers from source samples, against the unfolded one.

`python -m benchmarks.accuracy.folded_models`. It needs Debian's tuxpaint-stamps-default and the
packages of requirements-models.txt. The digits are counted in errors. The images that the ImageNet
networks were trained on are not at hand, so their source domain is made: each network is first
recalibrated to photographs. Truth is what this network predicts for a photograph before it is
corrupted.

Two controls separate the causes of a difference. The unfolded network with the moments of the other
source photographs as its statistics, its function unchanged, has the same samples as the folded
one but the original ε and filters. The unfolded network recalibrated on other target photographs
shows what the choice of samples alone changes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import bn_ops
from benchmarks.accuracy.data import digit_domains
from benchmarks.accuracy.networks import DEFAULT_CACHE, trained
from benchmarks.accuracy.photographs import corrupt_photographs, read_photographs
from benchmarks.accuracy.results import EMPTY, read_results, replace_marked, write_results
from bn_ops.batchnorm_insertion.source_moments import measure_tensors
from bn_ops.core.options import silent
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

PHOTO_SIZE = 112
PHOTOS = 100
CORRUPTIONS = ("gaussian_noise", "dark", "tint", "camera")

# ImageNet network → its module, its preprocessing and the ε of its layers.
PHOTO_NETWORKS = {
    "MobileNetV2": (real_models.mobilenet_v2, bn_ops.Preprocess.preset("imagenet"), 1e-5),
    "EfficientNet-Lite0": (
        real_models.efficientnet_lite0,
        bn_ops.Preprocess(mean=(127.0,) * 3, std=(128.0,) * 3, scale=1.0),
        1e-3,
    ),
}

Row = dict[str, Any]
Images = NDArray[np.float32]


def main() -> None:
    """Measure, write the rows, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument(
        "--only",
        choices=("digits", *PHOTO_NETWORKS),
        help="measure one network and keep the rows of the others",
    )
    options = parser.parse_args()
    began = time.perf_counter()
    rows = [] if options.only is None else _stored_rows(options.only)
    for name in ("digits", *PHOTO_NETWORKS):
        if options.only in {None, name}:
            for row in digits(options.cache) if name == "digits" else photographs(name):
                print(row, flush=True)
                rows.append(row)
    print(write_results("folded-models", rows, seconds=time.perf_counter() - began))
    replace_marked("folded-models", PAGE, _tables(rows))


def _stored_rows(without: str) -> list[Row]:
    """Return the rows of the last run, except those of one network."""
    stored = read_results("folded-models") or EMPTY
    return [row for row in stored["rows"] if row["network"] != without]


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
            f"Networks trained on ImageNet, {PHOTOS} photographs each as source and target, "
            f"corrupted at half strength; accuracy in percent on {2 * PHOTOS} others, and in "
            "brackets the share of predictions that equal those of the recalibrated unfolded "
            "network. The stored statistics are those of one set of source photographs; the "
            "layers were inserted with the same set, or with another one. Controls: the unfolded "
            "network with the moments of the other set, and on other target photographs:"
        ),
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * 8 + "|",
    ]
    photos = [row for row in rows if row["network"] in PHOTO_NETWORKS]
    for row in photos:
        cells = [f"{row[f'{k} accuracy']:.1f} ({row[f'{k} agreement']:.0f})" for k in _COMPARED]
        lines.append(
            f"| {row['network']} | {row['corruption']} | {row['source accuracy']:.1f} | "
            f"{row['unfolded accuracy']:.1f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


_HEAD = (
    "network",
    "corruption",
    "source as it is",
    "unfolded",
    "folded, same set",
    "folded, other set",
    "control: unfolded, other set",
    "control: other targets",
)

_COMPARED = ("same", "other", "moments", "targets")
"""Results that are compared with the recalibrated unfolded network, by their keys in the rows."""


def digits(cache: Path) -> Iterator[Row]:
    """Count errors on scikit-learn's digits of three networks trained on MNIST."""
    mnist, domains = digit_domains(4_500)
    domain = domains[0]
    for seed in SEEDS:
        module = MnistResNet().eval()
        module.load_state_dict(trained(cache, "digits", mnist, seed=seed, epochs=3))
        unfolded = export(module, (torch.zeros(2, 1, 28, 28),))
        folded = bn_ops.fold(unfolded).model
        inserted = {
            source: bn_ops.insert_batchnorm(folded, _batches(mnist.images[:source])).model
            for source in SOURCE_SAMPLES
        }
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
            for source, model in inserted.items():
                error = _error(_recalibrated(model, target), *test)
                row[f"folded, {source} source samples"] = error
            yield row


def _batches(images: Images) -> list[Images]:
    return [images[i : i + BATCH] for i in range(0, len(images), BATCH)]


def _recalibrated(model: onnx.ModelProto, target: list[Images]) -> onnx.ModelProto:
    recalibrated: onnx.ModelProto = bn_ops.recalibrate(model, target, threads=1).model
    return recalibrated


def _outputs(model: onnx.ModelProto, batches: list[Images]) -> NDArray[np.float32]:
    runner = session(model, threads=1)
    name = model.graph.input[0].name
    return np.concatenate([runner.run(None, {name: b})[0] for b in batches]).astype(np.float32)


def _error(model: onnx.ModelProto, images: Images, labels: NDArray[np.int64]) -> float:
    predicted = _outputs(model, _batches(images)).argmax(axis=1)
    return round(100 * float((predicted != labels).mean()), 2)


def photographs(name: str) -> Iterator[Row]:
    """Compare predictions of an ImageNet network on corrupted photographs."""
    build, preprocess, eps = PHOTO_NETWORKS[name]
    pictures = read_photographs(4 * PHOTOS, PHOTO_SIZE)
    training, others, stream, tested = (pictures[i::4] for i in range(4))
    tested = np.concatenate([tested, tested[:, :, ::-1]])

    def batches(images: NDArray[np.uint8]) -> list[Images]:
        levels = preprocess.levels()
        return _batches(np.stack([levels[c][images[..., c]] for c in range(3)], axis=1))

    published = _any_size(export(build(), (torch.zeros(2, 3, 224, 224),)))
    unfolded = _recalibrated(published, batches(training))
    folded = bn_ops.fold(unfolded).model
    same, other = (
        bn_ops.insert_batchnorm(folded, batches(images), eps=eps, threads=1).model
        for images in (training, others)
    )
    moments = _with_moments(unfolded, batches(others))
    truth = _outputs(unfolded, batches(tested)).argmax(1)
    for corruption in CORRUPTIONS:
        target, test = (batches(_half_corrupted(each, corruption)) for each in (stream, tested))
        models = {
            "same": _recalibrated(same, target),
            "other": _recalibrated(other, target),
            "moments": _recalibrated(moments, target),
            "targets": _recalibrated(unfolded, batches(_half_corrupted(others, corruption))),
        }
        expected = _outputs(_recalibrated(unfolded, target), test).argmax(1)
        row: Row = {
            "network": name,
            "corruption": corruption,
            "source accuracy": _equal(_outputs(unfolded, test).argmax(1), truth),
            "unfolded accuracy": _equal(expected, truth),
        }
        for key in _COMPARED:
            found = _outputs(models[key], test).argmax(1)
            row[f"{key} accuracy"] = _equal(found, truth)
            row[f"{key} agreement"] = _equal(found, expected)
        yield row


def _half_corrupted(pictures: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return the mean of each picture and its corruption."""
    mean = (pictures.astype(np.float64) + corrupt_photographs(pictures, name)) / 2
    return np.asarray(np.round(mean), dtype=np.uint8)


def _equal(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    return round(100 * float((left == right).mean()), 1)


def _with_moments(model: onnx.ModelProto, batches: list[Images]) -> onnx.ModelProto:
    """Return the same function with the moments of samples as statistics of its BatchNorm layers.

    A channel without variance over the samples keeps its statistics.
    """
    layers = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    name = model.graph.input[0].name
    found = measure_tensors(
        model,
        [node.input[0] for node in layers],
        [{name: batch} for batch in batches],
        threads=1,
        progress=silent,
    )
    changed = type(model)()
    changed.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in layers:
        values = [numpy_helper.to_array(stored[n]).astype(np.float64) for n in node.input[1:]]
        gamma, beta, mean, var = values
        eps = next(a.f for a in node.attribute if a.name == "epsilon")
        moments = found[node.input[0]].moments
        assert moments is not None
        live = moments.var_population > eps * 1e-5
        new_mean = np.where(live, moments.mean, mean)
        new_var = np.where(live, moments.var_population, var)
        new_beta = beta + gamma * (new_mean - mean) / np.sqrt(var + eps)
        new_gamma = gamma * np.sqrt((new_var + eps) / (var + eps))
        for tensor, value in zip(
            node.input[1:], (new_gamma, new_beta, new_mean, new_var), strict=True
        ):
            stored[tensor].CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor))
    return changed


def _any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for axis, name in ((2, "h"), (3, "w")):
        dimensions[axis].dim_param = name
    return model


if __name__ == "__main__":
    main()
