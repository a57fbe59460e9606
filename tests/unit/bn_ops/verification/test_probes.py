"""The samples on which verification runs both models."""

from __future__ import annotations

import numpy as np
import pytest

from bn_ops.core.signature import TensorInfo
from bn_ops.verification import fold_verified
from bn_ops.verification.probes import Probe, synthetic_probes
from tests.support.networks import images, residual_network

INPUT = TensorInfo(name="x", dtype="float32", shape=("N", 3, 8, 8))
EXAMPLE = {"x": np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)}


def _probes(*, example: bool, affordable: int) -> dict[str, Probe]:
    given = EXAMPLE if example else None
    found = synthetic_probes([INPUT], given, size=None, seed=0, affordable=lambda _: affordable)
    return {probe.label: probe for probe in found}


@pytest.mark.parametrize(("affordable", "given", "random"), [(1, 1, 0), (3, 3, 1), (1000, 5, 1)])
def test_float64_runs_a_given_sample_and_more_where_they_are_cheap(
    affordable: int, given: int, random: int
) -> None:
    found = _probes(example=True, affordable=affordable)
    exact = {label: len(probe.batch["x"]) for label, probe in found.items() if probe.exact}
    assert exact == {
        "given samples, a few": given,
        **dict.fromkeys(["one random sample"] * random, 1),
    }


def test_float64_runs_a_random_sample_where_none_is_given() -> None:
    found = _probes(example=False, affordable=1)
    assert [label for label, probe in found.items() if probe.exact] == ["one random sample"]
    assert "one random sample, scaled by 100" in found


def test_one_given_sample_is_scaled() -> None:
    scaled = _probes(example=True, affordable=1)["given samples, scaled by 100"].batch["x"]
    np.testing.assert_allclose(scaled.astype(np.float64), EXAMPLE["x"][:1] * 100.0, rtol=1e-6)


def test_folding_beside_the_reference_changes_nothing() -> None:
    results = [
        fold_verified(residual_network(), [images(4)], threads=threads) for threads in (1, 2)
    ]
    (alone, one), (beside, two) = results
    assert alone.model.SerializeToString(deterministic=True) == beside.model.SerializeToString(
        deterministic=True
    )
    assert one == two
    assert one.reference == "float64"
