"""Measure signals of harm that need no labels, where recalibration helps and where it hurts.

`python -m benchmarks.accuracy.harm --cache FOLDER`, after the two other accuracy benchmarks,
whose networks it uses. Each case recalibrates with `Replace` and computes the signals on the images
that a user has: at most 64 of the stream.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.data import Domain, digit_domains, fashion_domains, read_fashion
from benchmarks.accuracy.digits import EPOCHS as DIGIT_EPOCHS
from benchmarks.accuracy.digits import SEEDS, TRAINING_DIGITS
from benchmarks.accuracy.fashion import EPOCHS, TRAINING_IMAGES
from benchmarks.accuracy.harm_table import write_harm_table
from benchmarks.accuracy.methods import (
    Images,
    exact_statistics,
    folded,
    predictions,
    source_statistics,
    store,
)
from benchmarks.accuracy.networks import DEFAULT_CACHE, trained
from benchmarks.accuracy.results import write_results
from bn_ops.core.estimators import Replace
from bn_ops.diagnostics.before_after import prediction_shift
from examples.digits.data import LabeledImages
from examples.digits.train import MnistResNet

_TEST_IMAGES, _PROBE_IMAGES = 500, 64
_SAMPLES = (2, 8, 64, 256)
_CLASSES = ((0,), (3,), (5,), (8,), (1, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network and a stream to recalibrate it with."""

    name: str
    family: str
    network: MnistResNet
    stream: Images
    test: LabeledImages


def cases(cache: Path) -> Iterator[Case]:
    """Yield every domain at several n, streams of one or two classes, and inverted digits."""
    mnist, domains = digit_domains(TRAINING_DIGITS)
    for seed in SEEDS:
        net = _network(cache, "digits", mnist, seed, DIGIT_EPOCHS)
        for domain in (*domains, _inverted(domains[1])):
            yield from _by_size(net, domain, f"{domain.name}-{seed}")
    training = read_fashion("train")
    order = np.random.default_rng(0).permutation(len(training.labels))[:TRAINING_IMAGES]
    net = _network(cache, "fashion", training.take(order), 0, EPOCHS)
    for domain in fashion_domains():
        yield from _by_size(net, domain, domain.name)
        if domain.name in {"clean", "gaussian_noise", "brightness", "pixelate"}:
            yield from _by_class(net, domain)


def _network(cache: Path, name: str, data: LabeledImages, seed: int, epochs: int) -> MnistResNet:
    network = MnistResNet().eval()
    network.load_state_dict(trained(cache, name, data, seed=seed, epochs=epochs))
    return network


def _inverted(domain: Domain) -> Domain:
    return Domain(
        name="inverted",
        stream=LabeledImages(images=1 - domain.stream.images, labels=domain.stream.labels),
        test=LabeledImages(images=1 - domain.test.images, labels=domain.test.labels),
        development=True,
    )


def _by_size(network: MnistResNet, domain: Domain, name: str) -> Iterator[Case]:
    for n in _SAMPLES:
        pick = np.random.default_rng([n, 7]).choice(len(domain.stream.labels), n, replace=False)
        yield Case(
            name=f"{name}, n = {n}",
            family="inverted" if domain.name == "inverted" else f"n = {n}",
            network=network,
            stream=domain.stream.images[pick],
            test=domain.test.take(np.arange(min(_TEST_IMAGES, len(domain.test.labels)))),
        )


def _by_class(network: MnistResNet, domain: Domain) -> Iterator[Case]:
    for classes in _CLASSES:
        pick = np.flatnonzero(np.isin(domain.stream.labels, classes))[:128]
        yield Case(
            name=f"{domain.name}, classes {classes}",
            family="few classes",
            network=network,
            stream=domain.stream.images[pick],
            test=domain.test.take(np.arange(_TEST_IMAGES)),
        )


def measure_case(case: Case) -> dict[str, str | int | float | bool]:
    """Return the error before and after recalibration, and every signal."""
    net, source = case.network, source_statistics(case.network)
    probe = case.stream[:_PROBE_IMAGES]
    quick = folded(net)
    before, before_test = predictions(quick, probe), predictions(quick, case.test.images)
    halves = []
    for half in (case.stream[::2], case.stream[1::2]):
        store(net, source)
        exact_statistics(net, half, Replace())
        halves.append(predictions(folded(net), probe).argmax(1))
    store(net, source)
    exact_statistics(net, case.stream, Replace())
    quick = folded(net)
    after, after_test = predictions(quick, probe), predictions(quick, case.test.images)
    store(net, source)
    shift = prediction_shift("logits", before, after)
    wrong = [
        float(100 * np.mean(p.argmax(1) != case.test.labels)) for p in (before_test, after_test)
    ]
    return {
        "case": case.name,
        "family": case.family,
        "samples": len(case.stream),
        "error_before": round(wrong[0], 2),
        "error_after": round(wrong[1], 2),
        "agreement": round(shift.agreement, 4),
        "entropy_change": round(shift.entropy_change, 4),
        "effective_classes_before": round(shift.effective_classes_before, 4),
        "effective_classes_ratio": round(
            shift.effective_classes_after / shift.effective_classes_before, 4
        ),
        "split_half_agreement": round(float(np.mean(halves[0] == halves[1])), 4),
    }


def main() -> None:
    """Measure every case and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder of trained networks"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    rows = [measure_case(case) for case in cases(options.cache)]
    print(write_results("harm", rows, seconds=time.perf_counter() - began))
    print(write_harm_table())


if __name__ == "__main__":
    main()
