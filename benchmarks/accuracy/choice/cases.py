"""The cases of the study: networks, domains and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.accuracy import corruptions
from benchmarks.accuracy.choice.candidates import SHARES, Mixed, measure, mixed, shares
from benchmarks.accuracy.choice.letters import draw_letters
from benchmarks.accuracy.choice.networks import (
    CHANGES,
    IMAGENET_NETWORKS,
    changed,
    digit_network,
    fashion_network,
    imagenet_network,
    letter_network,
)
from benchmarks.accuracy.choice.pictures import CORRUPTIONS, Pictures, corrupt, read_pictures
from benchmarks.accuracy.choice.rows import SOURCE, Row
from benchmarks.accuracy.choice.streams import (
    PHOTO_STREAMS,
    STREAMS,
    Stream,
    draw_images,
    draw_pictures,
    planned,
)
from benchmarks.accuracy.data import read_fashion
from examples.digits.data import LabeledImages, load_mnist, load_sklearn_digits

__all__ = ["STUDIES", "Run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to measure, and where.

    Attributes:
        cache: folder of trained networks.
        device: where networks run.
        every: measure every n-th case.
        sizes: measure streams of these sizes only; all where empty.
        networks: measure these networks only; all where empty.
        changed: whether to measure networks with changed weights.
        names: candidates to measure, the source among them.
    """

    cache: Path
    device: torch.device
    every: int = 1
    sizes: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()
    changed: bool = True
    names: tuple[str, ...] = tuple(SHARES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A network on a domain.

    Attributes:
        network: name of the network.
        change: change of its weights, or empty.
        domain: name of the domain.
        seed: seed of the draws.
    """

    network: str
    change: str
    domain: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    """Small gray images of a domain: one part for streams, one that measures the accuracy."""

    stream: LabeledImages
    test: LabeledImages


def fashion_rows(run: Run) -> Iterator[Row]:
    """Yield Fashion-MNIST, clean and under 15 corruptions, on three networks."""
    whole = read_fashion("t10k")
    clean = _Images(stream=whole.take(np.arange(1_000, 3_000)), test=whole.take(np.arange(600)))
    pairs = [
        *((n, "", d) for d, n in product(("clean", *corruptions.CORRUPTIONS), range(3))),
        *((n, change, "clean") for change, n in product(CHANGES, range(2))),
    ]
    for seed, (number, change, domain) in enumerate(pairs, 900):
        case = _Case(network=f"fashion{number}", change=change, domain=domain, seed=seed)
        if _wanted(run, case, seed - 900):
            network = fashion_network(run.cache, number, run.device)
            images = clean if domain == "clean" else _corrupted(clean, domain)
            yield from _image_rows(run, case, network, images)


def _wanted(run: Run, case: _Case, position: int) -> bool:
    named = not run.networks or case.network in run.networks
    return named and (run.changed or not case.change) and position % run.every == 0


def _corrupted(images: _Images, name: str) -> _Images:
    """Corrupt both parts with noise of their own."""
    return _Images(
        **{
            part: LabeledImages(
                images=corruptions.corrupt(data.images, name, seed=seed), labels=data.labels
            )
            for part, data, seed in (("stream", images.stream, 1), ("test", images.test, 0))
        }
    )


_MNIST_CORRUPTIONS = (
    *("gaussian_noise", "contrast", "defocus_blur", "brightness", "fog", "pixelate"),
)


def digit_rows(run: Run) -> Iterator[Row]:
    """Yield MNIST, its corruptions, inverted MNIST and scikit-learn's digits, on three networks.

    Most MNIST images, of streams and tests, are training images of the networks: the package has
    5,000.
    """
    domains = _digit_domains()
    pairs = [
        *((seed, "", domain) for seed, domain in product(range(3), domains)),
        *((seed, change, "mnist") for change, seed in product(CHANGES, range(2))),
    ]
    for seed, (number, change, domain) in enumerate(pairs, 160):
        case = _Case(network=f"digits{number}", change=change, domain=domain, seed=seed)
        if _wanted(run, case, seed - 160):
            yield from _image_rows(run, case, digit_network(run.cache, number), domains[domain]())


def _digit_domains() -> Mapping[str, Callable[[], _Images]]:
    mnist = load_mnist()
    mnist = mnist.take(np.random.default_rng(6).permutation(len(mnist.labels)))
    digits = _eight_bits(load_sklearn_digits())
    digits = digits.take(np.random.default_rng(5).permutation(len(digits.labels)))
    rest = len(digits.labels) - 700

    def part(data: LabeledImages, stream: int, test: slice) -> _Images:
        every = np.arange(len(data.labels))
        return _Images(stream=data.take(every[:stream]), test=data.take(every[test]))

    inverted = LabeledImages(images=1 - mnist.images, labels=mnist.labels)
    few = part(mnist, 2_000, slice(4_000, 4_700))
    return {
        "digits": partial(part, digits, rest, slice(rest, None)),
        "mnist": partial(part, mnist, 3_500, slice(4_000, None)),
        "inverted": partial(part, inverted, 3_500, slice(4_000, None)),
        **{f"mnist-{name}": partial(_corrupted, few, name) for name in _MNIST_CORRUPTIONS},
    }


_LETTER_STREAM, _LETTER_TEST = 2_000, 500

_LETTER_DOMAINS = (
    *("print", "hand", "hand-contrast", "print-gaussian_noise", "print-contrast", "print-fog"),
    *("print-glass_blur", "print-motion_blur"),
)


def letter_rows(run: Run) -> Iterator[Row]:
    """Yield capital letters in other fonts than those of the training."""
    for seed, domain in enumerate(_LETTER_DOMAINS, 2_000):
        case = _Case(network="letters0", change="", domain=domain, seed=seed)
        if _wanted(run, case, seed - 2_000):
            network = letter_network(run.cache, 0, run.device)
            yield from _image_rows(run, case, network, _letters(domain))


def _letters(domain: str) -> _Images:
    fonts, _, corruption = domain.partition("-")
    clean = _Images(
        stream=draw_letters(fonts, _LETTER_STREAM, seed=1),
        test=draw_letters(fonts, _LETTER_TEST, seed=2),
    )
    return _corrupted(clean, corruption) if corruption else clean


def _eight_bits(data: LabeledImages) -> LabeledImages:
    levels = (data.images * np.float32(255)).round()
    return LabeledImages(images=levels / np.float32(255), labels=data.labels)


def _image_rows(run: Run, case: _Case, network: nn.Module, images: _Images) -> Iterator[Row]:
    """Yield every stream of a network on a domain."""
    ready = mixed(changed(network, case.change), run.device)
    test = _tensor(images.test.images, run.device)
    for stream in planned(STREAMS, run.sizes):
        picked = draw_images(stream, images.stream.labels, case.seed)
        drawn = _tensor(images.stream.images[picked], run.device)
        yield _row(case, stream, ready, (drawn, test), images.test.labels, run.names)


def _tensor(images: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).to(device)


def _row(  # noqa: PLR0917 - what a row says, and what it measures
    case: _Case,
    stream: Stream,
    network: Mixed,
    images: tuple[Tensor, Tensor],
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> Row:
    """Measure one stream on one test set, and describe it."""
    drawn, test = images
    return Row(
        network=case.network,
        change=case.change,
        domain=case.domain,
        stream=stream.kind,
        samples=len(drawn),
        draw=stream.draw,
        classes=network.classes,
        tested=len(labels),
        candidates=measure(network, drawn, test, labels, names=names),
    )


_BATCH = 64
_TEST_PICTURES = 110
_CONFIDENT = 0.3
_PHOTO_CHANGES = ("pruned-30", "4-bit", "noise", "reset")


def photograph_rows(run: Run, pictures: str) -> Iterator[Row]:
    """Yield a set of photographs, clean and under 13 corruptions, on two ImageNet networks.

    Truth is the label where there is one. Elsewhere it is the class that the unchanged network
    predicts for the clean picture with a probability above 0.3.
    """
    pairs = [
        *((name, "", s, c) for name, s, c in product(IMAGENET_NETWORKS, "ABCF", CORRUPTIONS)),
        *(
            (name, change, s, "clean")
            for change, name, s in product(_PHOTO_CHANGES, IMAGENET_NETWORKS, "BF")
        ),
    ]
    found = read_pictures(pictures)
    studies = {name: _Photographs(name, found, run) for name in IMAGENET_NETWORKS}
    for seed, (name, change, of, corruption) in enumerate(pairs):
        if of != pictures or seed % run.every:
            continue
        case = _Case(network=name, change=change, domain=f"{pictures}/{corruption}", seed=seed)
        yield from studies[name].rows(case, corruption)


class _Photographs:
    """A set of photographs with the classes that count as true for a network."""

    def __init__(self, name: str, pictures: Pictures, run: Run) -> None:
        self._name, self._pictures, self._run = name, pictures, run
        pixels = torch.from_numpy(pictures.pixels).to(run.device)
        self._images = pixels.permute(0, 3, 1, 2).float() / 255

    @cached_property
    def _truth(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the class of every picture, and which pictures can measure the accuracy."""
        if self._pictures.labels is not None:
            return self._pictures.labels, np.ones(len(self._pictures.labels), dtype=np.bool_)
        network = mixed(imagenet_network(self._name), self._run.device)
        still = shares(SOURCE, network.layers)
        parts = torch.split(self._input(self._images), _BATCH)
        p = torch.cat([network.probabilities(part, 1, still) for part in parts])
        return p.argmax(1).cpu().numpy(), (p.amax(1) > _CONFIDENT).cpu().numpy()

    def _input(self, images: Tensor) -> Tensor:
        """Return what the network takes for images in [0, 1]."""
        if self._name == "EfficientNet-Lite0":
            return (images * 255 - 127) / 128
        mean = torch.tensor([0.485, 0.456, 0.406], device=images.device)[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225], device=images.device)[:, None, None]
        return (images - mean) / std

    def rows(self, case: _Case, corruption: str) -> Iterator[Row]:
        """Yield every stream."""
        network = mixed(changed(imagenet_network(self._name), case.change), self._run.device)
        labels, usable = self._truth
        streams, tests = (
            self._input(corrupt(self._images, corruption, seed=seed)) for seed in (1, 2)
        )
        for stream in planned(PHOTO_STREAMS, self._run.sizes):
            drawn = draw_pictures(stream, labels, self._pictures.crops, case.seed)
            if drawn is not None:
                picked, rest = drawn
                test = rest[usable[rest]][:_TEST_PICTURES]
                images = (streams[picked], tests[test])
                yield _row(case, stream, network, images, labels[test], self._run.names)


STUDIES: Mapping[str, Callable[[Run], Iterator[Row]]] = {
    "fashion": fashion_rows,
    "digits": digit_rows,
    "letters": letter_rows,
    **{f"photographs-{name}": partial(photograph_rows, pictures=name) for name in "ABCF"},
}
"""Rows of each study; raises FileNotFoundError where its data is not installed."""
