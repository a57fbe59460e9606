"""Run the input check on real networks, under every corruption and fault.

`python -m benchmarks.accuracy.input_check [--network NAME …]`. It needs Debian's
tuxpaint-stamps-default and dataset-fashion-mnist, and the packages of requirements-models.txt.
With `--network`, the other networks keep their rows.

Correct input must never be rejected: images of the network's own kind, clean and under every
corruption, and images of other kinds. Faulty input must be rejected: each fault on each network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from benchmarks.accuracy.corruptions import CORRUPTIONS, corrupt
from benchmarks.accuracy.data import digit_domains, read_fashion
from benchmarks.accuracy.networks import DEFAULT_CACHE, trained
from benchmarks.accuracy.photographs import (
    PHOTO_CORRUPTIONS,
    corrupt_photographs,
    read_photographs,
)
from benchmarks.accuracy.results import read_results, replace_marked, write_results
from bn_ops.api import check_input
from bn_ops.errors import BatchError
from bn_ops.exporting import export
from bn_ops.input_check.value_ranges import Candidate, candidates
from examples.digits.train import MnistResNet
from tests.support import real_models

PAGE = Path(__file__).parents[2] / "docs" / "input-check.md"

SAMPLES = (4, 64)
SIZE = 128
"""Side length of the photographs; first-layer statistics hardly depend on it."""

_TRUSTED = 0.5
"""Distance in σ below which `bnrecal inspect` does not warn about the ranking."""

_TEXT = 0.3
"""Probability from which PP-OCR counts a pixel as text."""

Pixels = NDArray[np.float64]
"""Images 0…255, shape (n, C, H, W)."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network and its images.

    Attributes:
        name: name in the rows.
        model: the network with BatchNorm.
        right: the preprocessing of its training, one of the candidates.
        images: kind of images → clean images.
        corrupted: name of a corruption → corrupted images.
        embeds: the outputs are embeddings.
    """

    name: str
    model: onnx.ModelProto
    right: Candidate
    images: Mapping[str, Pixels]
    corrupted: Mapping[str, Callable[[], Pixels]]
    embeds: bool = False


def main() -> None:
    """Measure every network, write the rows and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--effect", action="store_true", help="measure only what 0…1 does to the predictions"
    )
    options = parser.parse_args()
    known = read_results("input-check") or {"rows": [], "seconds": 0, "unchanged": {}}
    replaced = () if options.effect else options.network
    rows: list[Row] = [row for row in known["rows"] if row["network"] not in replaced]
    unchanged: dict[str, float] = dict(known.get("unchanged", {}))
    began = time.perf_counter()
    for name in options.network:
        network = NETWORKS[name](options.cache)
        found = [] if options.effect else [*plausible(network), *faults(network)]
        rows += found
        if network.right.name != "unit":
            unchanged[name] = round(unchanged_with_unit_range(network), 3)
        print(summary(name, found) if found else (name, unchanged.get(name)), flush=True)
    order = list(NETWORKS)
    rows.sort(key=lambda row: order.index(row["network"]))
    # Of a partial run, the seconds are those of the networks that it measured.
    seconds = known["seconds"] if options.effect else time.perf_counter() - began
    print(write_results("input-check", rows, seconds=seconds, unchanged=unchanged))
    replace_marked("input-check", PAGE, tables(rows, unchanged))


def unchanged_with_unit_range(network: Network) -> float:
    """Return the share of predictions that are the same with 0…1 as with the right input.

    A prediction is the class of an image (or of a position in a line of text), the image with the
    nearest embedding by cosine, or a pixel that is text; of pixels, those that are text with both
    inputs among those that are with either.
    """
    pixels = next(iter(network.images.values()))
    unit = next(c for c in candidates(3) if c.name == "unit" and c.preprocess.color == "rgb")
    right, wrong = (_predicted(network, c.apply(pixels)) for c in (network.right, unit))
    if right.dtype == np.bool_:
        both, either = np.logical_and(right, wrong), np.logical_or(right, wrong)
        return float(both.sum() / either.sum())
    return float((right == wrong).mean())


def _predicted(network: Network, images: NDArray[np.float32]) -> NDArray[np.generic]:
    session = ort.InferenceSession(network.model.SerializeToString())
    feed = session.get_inputs()[0].name
    parts = [
        np.asarray(session.run(None, {feed: images[start : start + 8]})[0])
        for start in range(0, len(images), 8)
    ]
    scores = np.concatenate(parts)
    if network.embeds:
        scores /= np.linalg.norm(scores, axis=1, keepdims=True)
        similarity = scores @ scores.T
        np.fill_diagonal(similarity, -1)
        return np.asarray(similarity.argmax(axis=1))
    text_map = scores.ndim == 4  # (n, 1, H, W)
    return scores > _TEXT if text_map else scores.argmax(axis=-1)


def tables(rows: list[Row], unchanged: Mapping[str, float]) -> str:
    """Render what docs/input-check.md shows."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    lines = [
        (
            "Right preprocessing: clean images, every corruption at its strongest, and images of "
            "other kinds, with 4 and with 64 samples:"
        ),
        "",
        "| network | cases | distance: median, largest (case) | smallest spread | refused |",
        "|---|---|---|---|---|",
    ]
    for name in networks:
        right = [r for r in rows if r["network"] == name and not r["fault"]]
        far = max(right, key=lambda r: r["distance"])
        lines.append(
            f"| {name} | {len(right)} | {np.median([r['distance'] for r in right]):.2f}, "
            f"{far['distance']:.2f} ({far['case']}) | {min(r['spread'] for r in right):.2f} | "
            f"{sum(r['refused'] for r in right)} |"
        )
    lines += ["", ranking(rows)]
    wrong = [row for row in rows if row["fault"]]
    cases = list(dict.fromkeys(row["case"] for row in wrong))
    lines += [
        "",
        (
            "Faults with 64 samples: distance in σ and the reported cause, **missed** where "
            "none was; a dash where the fault does not exist:"
        ),
        "",
        "| fault | " + " | ".join(networks) + " |",
        "|---" * (len(networks) + 1) + "|",
    ]
    for case in cases:
        found = {row["network"]: row for row in wrong if row["case"] == case}
        lines.append(f"| {case} | " + " | ".join(_cell(found.get(n)) for n in networks) + " |")
    lines += [
        "",
        (
            "Predictions that stay the same with 0…1 instead of the right input (classes or "
            "nearest other images, positions in lines of text, pixels of text):"
        ),
        "",
        "| " + " | ".join(unchanged) + " |",
        "|---" * len(unchanged) + "|",
        "| " + " | ".join(f"{100 * share:.0f} %" for share in unchanged.values()) + " |",
    ]
    return "\n".join(lines)


def ranking(rows: list[Row]) -> str:
    """Return how often the nearest range was the right one, as a sentence."""
    ranked = [
        (row["distance"] < _TRUSTED, row["best"] == PRESETS[row["network"]])
        for row in rows
        if not row["fault"] and row["best"] is not None and row["network"] in PRESETS
    ]
    near, far = ([right for close, right in ranked if close is wanted] for wanted in (True, False))
    return (
        f"Of these cases, on the {len(PRESETS)} networks for color images, the check ranked "
        f"{len(ranked)}. The nearest range was the right one in {sum(near)} of {len(near)} at a "
        f"distance below {_TRUSTED} σ, and in {sum(far)} of {len(far)} above."
    )


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    distance = "" if row["distance"] is None else f"{row['distance']:.3g} "
    return f"{distance}{row['cause'] if row['refused'] else '**missed**'}"


def summary(name: str, rows: list[Row]) -> str:
    """Return a one-line summary of false alarms and missed faults."""
    right = [row for row in rows if not row["fault"]]
    wrong = [row for row in rows if row["fault"]]
    alarms = [f"{row['case']}@{row['samples']}" for row in right if row["refused"]]
    missed = [row["case"] for row in wrong if not row["refused"]]
    far = max(row["distance"] for row in right)
    return (
        f"{name}: {len(right)} correct, at most {far:.2f} σ, false alarms {alarms}; "
        f"{len(wrong)} faulty, missed {missed}"
    )


def plausible(network: Network) -> Iterator[Row]:
    """Yield rows with correct preprocessing of clean, corrupted and foreign images."""
    cases: dict[str, Callable[[], Pixels]] = {
        kind: partial(_same, images) for kind, images in network.images.items()
    }
    for case, make in (cases | dict(network.corrupted)).items():
        pixels = make()
        for samples in SAMPLES:
            yield _row(network, case, network.right.apply(pixels[:samples]), fault=False)


def _same(images: Pixels) -> Pixels:
    return images


def faults(network: Network) -> Iterator[Row]:
    """Yield rows with every fault on images of the network's own kind."""
    pixels = next(iter(network.images.values()))
    channels = pixels.shape[1]
    by_name = {c.name: c for c in candidates(channels) if c.preprocess.color != "bgr"}
    right = network.right
    yield _row(network, "0-255 instead", by_name["none"].apply(pixels), fault=True)
    yield _row(network, "divided by 255 twice", right.apply(pixels / 255), fault=True)
    again = f"{right.name} twice"
    if right.name != "unit":
        yield _row(network, "normalized twice", by_name[again].apply(pixels), fault=True)
        yield _row(network, "not normalized", by_name["unit"].apply(pixels), fault=True)
    flat = np.broadcast_to(pixels.mean((2, 3), keepdims=True), pixels.shape)
    yield _row(network, "constant images", right.apply(flat), fault=True)
    if channels == 3:
        blank = pixels.copy()
        blank[:, 2] = 0
        yield _row(network, "blank channel", right.apply(blank), fault=True)
        reshaped = pixels.transpose(0, 2, 3, 1).reshape(pixels.shape)
        yield _row(network, "NHWC reshaped", right.apply(reshaped), fault=True)
    last = right.apply(pixels).transpose(0, 2, 3, 1)
    yield _row(network, "NHWC as it is", last, fault=True)


def _row(network: Network, case: str, images: NDArray[np.float32], *, fault: bool) -> Row:
    began = time.perf_counter()
    row: Row = {"network": network.name, "case": case, "fault": fault, "samples": len(images)}
    try:
        found = check_input(
            network.model, [np.ascontiguousarray(images)], threads=1, allow_mismatch=True
        )
    except BatchError as error:
        return row | {"refused": True, "cause": error.code, "distance": None, "best": None}
    best = found.ranking[0] if found.ranking else None
    return row | {
        "refused": not found.plausible,
        "cause": ", ".join(finding.cause for finding in found.findings),
        "distance": None if found.distance is None else round(found.distance, 3),
        "spread": None if found.spread is None else round(found.spread, 4),
        "best": None if best is None else best.name,
        "color_order": None if best is None else best.color_order,
        "present": found.present,
        "seconds": round(time.perf_counter() - began, 3),
    }


def digits_network(cache: Path) -> Network:
    """Return the network of the digits."""
    mnist, domains = digit_domains(4_500)
    most = max(SAMPLES)
    state = trained(cache, "digits", mnist, seed=0, epochs=3)
    others, clothes = domains[0].stream.images[:most], read_fashion("t10k").images[:most]
    kinds = {"own": mnist.images[:most], "other digits": others, "clothes": clothes}
    return _gray("digits", state, kinds)


def fashion_network(cache: Path) -> Network:
    """Return the network of Fashion-MNIST."""
    training, most = read_fashion("train"), max(SAMPLES)
    order = np.random.default_rng(0).permutation(len(training.labels))[:45_000]
    state = trained(cache, "fashion", training.take(order), seed=0, epochs=2)
    digits = digit_domains(4_500)[0].images[:most]
    return _gray("fashion", state, {"own": read_fashion("t10k").images[:most], "digits": digits})


def _gray(name: str, state: Mapping[str, Any], kinds: Mapping[str, NDArray[np.float32]]) -> Network:
    module = MnistResNet().eval()
    module.load_state_dict(state)
    own = kinds["own"]
    return Network(
        name=name,
        model=export(module, (torch.zeros(2, 1, 28, 28),)),
        right=next(c for c in candidates(1) if c.name == "unit"),
        images={kind: _levels(images) for kind, images in kinds.items()},
        corrupted={c: partial(_corrupted_gray, own, c) for c in CORRUPTIONS},
    )


def _levels(images: NDArray[np.float32]) -> Pixels:
    return np.round(images.astype(np.float64) * 255)


def _corrupted_gray(images: NDArray[np.float32], name: str) -> Pixels:
    return np.asarray(corrupt(images, name, seed=1).astype(np.float64) * 255)


def _imagenet_network(name: str, _cache: Path) -> Network:
    """Return a network that was trained on ImageNet, with photographs."""
    model = export(_IMAGENET[name](), (torch.zeros(2, 3, 224, 224),))
    return replace(_color(name, model, None), embeds=name.endswith("embedding"))


def _text_network(kind: str, size: tuple[int, int]) -> Network:
    """Return a network of PP-OCR, with rendered text and photographs."""
    path = next(real_models.rapidocr("").glob(f"*_{kind}_*.onnx"))
    return _color(f"PP-OCR {kind}", onnx.load(path), size)


def _color(name: str, model: onnx.ModelProto, size: tuple[int, int] | None) -> Network:
    photographs = read_photographs(max(SAMPLES), SIZE)
    own = photographs if size is None else render_text(max(SAMPLES))
    kinds = {"own": own, "photographs": photographs}
    return Network(
        name=name,
        model=_any_size(model),
        right=next(
            c for c in candidates(3) if c.name == PRESETS[name] and c.preprocess.color == "rgb"
        ),
        images={kind: _fitted(images, size) for kind, images in kinds.items()},
        corrupted={c: partial(_corrupted_color, own, c, size) for c in PHOTO_CORRUPTIONS},
    )


PRESETS: Mapping[str, str] = {
    "MobileNetV2": "imagenet",
    "MobileNetV2 embedding": "imagenet",
    "EfficientNet-Lite0": "tf",
    "EfficientNet-Lite1": "tf",
    "EfficientNet-Lite2": "tf",
    "PP-OCR det": "imagenet",
    "PP-OCR cls": "tf",
    "PP-OCR rec": "tf",
}
"""Right preprocessing of the networks for color images."""

_IMAGENET: Mapping[str, Callable[[], nn.Module]] = {
    "MobileNetV2": real_models.mobilenet_v2,
    "MobileNetV2 embedding": real_models.mobilenet_v2_embedding,
    "EfficientNet-Lite0": real_models.efficientnet_lite0,
    "EfficientNet-Lite1": real_models.efficientnet_lite1,
    "EfficientNet-Lite2": real_models.efficientnet_lite2,
}

NETWORKS: Mapping[str, Callable[[Path], Network]] = {
    "digits": digits_network,
    "fashion": fashion_network,
    **{name: partial(_imagenet_network, name) for name in _IMAGENET},
    "PP-OCR det": lambda _: _text_network("det", (96, 192)),
    "PP-OCR cls": lambda _: _text_network("cls", (48, 192)),
    "PP-OCR rec": lambda _: _text_network("rec", (48, 192)),
}


def _any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the image sizes dynamic; only the first layer runs."""
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for axis, name in ((0, "n"), (2, "h"), (3, "w")):
        dimensions[axis].dim_param = name
    return model


def _corrupted_color(images: NDArray[np.uint8], name: str, size: tuple[int, int] | None) -> Pixels:
    return _fitted(corrupt_photographs(images, name), size)


def _fitted(images: NDArray[np.uint8], size: tuple[int, int] | None) -> Pixels:
    """Return resized 8-bit images, channels first."""
    if size is not None:
        height, width = size
        images = np.stack([np.asarray(Image.fromarray(i).resize((width, height))) for i in images])
    return images.transpose(0, 3, 1, 2).astype(np.float64)


def render_text(count: int) -> NDArray[np.uint8]:
    """Return lines of text in Pillow's font, dark on bright and inverse; (n, 96, 384, 3)."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "))
    return np.stack([_line("".join(random.choice(letters, 14)), random) for _ in range(count)])


def _line(text: str, random: np.random.Generator) -> NDArray[np.uint8]:
    ground, ink = random.integers(150, 256, 3), random.integers(0, 90, 3)
    if random.random() < 0.3:
        ground, ink = ink, ground
    image = Image.new("RGB", (384, 96), tuple(int(v) for v in ground))
    font = ImageFont.load_default(int(random.integers(30, 50)))
    place = (int(random.integers(2, 30)), int(random.integers(8, 40)))
    ImageDraw.Draw(image).text(place, text, tuple(int(v) for v in ink), font=font)
    return np.asarray(image)


if __name__ == "__main__":
    main()
