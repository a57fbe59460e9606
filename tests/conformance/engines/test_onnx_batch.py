"""`method="batch"` on ONNX models, against train-mode statistics of each batch in float64."""

from __future__ import annotations

import numpy as np
import pytest

import bn_ops
from bn_ops.errors import BatchShapeError, OptionError
from tests.support.networks import GraphBuilder, images, residual_network
from tests.support.oracle import Observed, oracle_statistics, residual, stored_statistics

TIGHT = 1e-5

X = images(30)
BATCHES = np.split(X, [8, 16, 27])
LAYERS = list(stored_statistics(residual_network()))


def per_batch() -> list[Observed]:
    """Return the input statistics of each layer, with batches normalized by their own moments."""
    return [oracle_statistics(residual_network(), {"x": batch}) for batch in BATCHES]


def positions(layer: str) -> int:
    return 144 if "block1" not in layer else 36


def recalibrated(**options: object) -> Observed:
    result = bn_ops.recalibrate(residual_network(), BATCHES, method="batch", **options)  # type: ignore[call-overload]
    assert result.report.method == "batch"
    found = {name: (s.mean, s.var) for name, s in result.statistics.items()}
    assert residual(stored_statistics(result.model), found) < 1e-6
    return found


def pooled(seen: list[Observed], layer: str) -> tuple[np.ndarray, np.ndarray]:
    weights = np.array([len(batch) for batch in BATCHES]) / len(X)
    means = np.stack([s[layer][0] for s in seen])
    seconds = np.stack([s[layer][1] + s[layer][0] ** 2 for s in seen])
    mean = weights @ means
    return mean, weights @ seconds - mean**2


def test_population_variance() -> None:
    seen = per_batch()
    assert residual(recalibrated(), {layer: pooled(seen, layer) for layer in LAYERS}) <= TIGHT


def test_unbiased_variance() -> None:
    seen = per_batch()
    wanted = {}
    for layer in LAYERS:
        mean, var = pooled(seen, layer)
        count = len(X) * positions(layer)
        wanted[layer] = (mean, var * count / (count - 1))
    assert residual(recalibrated(variance="unbiased"), wanted) <= TIGHT


def test_mean_of_batches_variance() -> None:
    seen = per_batch()
    wanted = {}
    for layer in LAYERS:
        counts = np.array([len(batch) * positions(layer) for batch in BATCHES])
        unbiased = [s[layer][1] * n / (n - 1) for s, n in zip(seen, counts, strict=True)]
        wanted[layer] = (np.mean([s[layer][0] for s in seen], axis=0), np.mean(unbiased, axis=0))
    assert residual(recalibrated(variance="mean_of_batches"), wanted) <= TIGHT


def test_momentum_equals_training() -> None:
    seen, m = per_batch(), 0.3
    wanted = {}
    for layer in LAYERS:
        mean, var = stored_statistics(residual_network())[layer]
        for s, batch in zip(seen, BATCHES, strict=True):
            count = len(batch) * positions(layer)
            mean = (1 - m) * mean + m * s[layer][0]
            var = (1 - m) * var + m * s[layer][1] * count / (count - 1)
        wanted[layer] = (mean, var)
    found = recalibrated(variance="unbiased", estimator=bn_ops.Momentum(m))
    assert residual(found, wanted) <= TIGHT


def test_single_batch_equals_exact_method() -> None:
    exact = bn_ops.recalibrate(residual_network(), [X])
    batch = bn_ops.recalibrate(residual_network(), [X], method="batch")
    for layer in LAYERS:
        one, other = exact.statistics[layer], batch.statistics[layer]
        np.testing.assert_allclose(other.mean, one.mean, atol=1e-6)
        np.testing.assert_allclose(other.var, one.var, rtol=1e-5)


def test_excluded_layers_stay_in_eval_mode() -> None:
    result = bn_ops.recalibrate(residual_network(), BATCHES, method="batch", layers=["!block0.*"])
    frozen = {"block0.bn1", "block0.bn2"}
    seen = [oracle_statistics(residual_network(), {"x": b}, frozen=frozen) for b in BATCHES]
    found = {name: (s.mean, s.var) for name, s in result.statistics.items()}
    wanted = {layer: pooled(seen, layer) for layer in LAYERS if layer not in frozen}
    assert found.keys() == wanted.keys()
    assert residual(found, wanted) <= TIGHT


def test_unbiased_variance_needs_two_values() -> None:
    g = GraphBuilder()
    y = g.bn(g.op("Gemm", "x", g.weight(5, 4), transB=1), 5, "bn")
    model = g.model([("x", ["N", 4])], [y])
    single = [np.ones((1, 4), np.float32)]
    with pytest.raises(BatchShapeError, match="one value per channel"):
        bn_ops.recalibrate(model, single, method="batch", variance="unbiased")


def test_unknown_variance() -> None:
    with pytest.raises(OptionError, match="mean_of_batches"):
        recalibrated(variance="biased")
