"""Laws of moments: merging is associative, commutative and invariant under splits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.moments import Moments, measure, merge, merge_all
from bn_ops.diagnostics.build_report import standard_errors

# float64 rounding of a few dozen operations, relative to the spread of the data
TOLERANCE = 1e-11


@st.composite
def streams(draw: st.DrawFn) -> list[np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.integers(1, 4))
    positions = draw(st.integers(1, 70))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    offset = draw(st.sampled_from([0.0, 1.0, -50.0, 1e4]))
    scale = draw(st.sampled_from([1e-3, 1.0, 100.0]))
    return [
        (offset + scale * rng.normal(0, 1, (n, channels, positions))).astype(np.float32)
        for n in sizes
    ]


def close(left: Moments, right: Moments) -> None:
    assert (left.samples, left.count) == (right.samples, right.count)
    spread = np.sqrt(right.var_population) + 1e-30
    magnitude = np.abs(right.mean)
    assert (np.abs(left.mean - right.mean) <= TOLERANCE * (spread + magnitude)).all()
    scale = right.sum_sq_dev + right.count * (1e-12 * magnitude) ** 2 + 1e-300
    assert (np.abs(left.sum_sq_dev - right.sum_sq_dev) <= 1e-9 * scale).all()


@given(streams())
def test_invariance_under_splits(parts: list[np.ndarray]) -> None:
    close(merge_all(map(measure, parts)), measure(np.concatenate(parts)))


@given(streams())
def test_invariance_under_order(parts: list[np.ndarray]) -> None:
    close(merge_all(map(measure, reversed(parts))), merge_all(map(measure, parts)))


@given(streams(), streams(), streams())
def test_merging_is_associative(
    first: list[np.ndarray], second: list[np.ndarray], third: list[np.ndarray]
) -> None:
    a, b, c = (
        merge_all(measure(part[:, :1]) for part in parts) for parts in (first, second, third)
    )
    close(merge(merge(a, b), c), merge(a, merge(b, c)))


@given(streams())
def test_affine_equivariance(
    parts: list[np.ndarray],
) -> None:
    x = np.concatenate(parts).astype(np.float64)
    plain, moved = measure(x), measure(2.0 * x - 3.0)
    spread = np.sqrt(plain.var_population) + np.abs(plain.mean)
    assert (np.abs(moved.mean - (2.0 * plain.mean - 3.0)) <= 1e-12 * (spread + 3)).all()
    bound = 1e-9 * plain.var_population + 1e-10 * (spread + 3) ** 2
    assert (np.abs(moved.var_population - 4.0 * plain.var_population) <= bound).all()


@given(streams())
def test_standard_errors_invariant_under_splits(parts: list[np.ndarray]) -> None:
    whole = standard_errors(measure(np.concatenate(parts)))
    split = standard_errors(merge_all(map(measure, parts)))
    if whole is None or split is None:
        assert whole is split
        return
    scale = np.concatenate(parts).astype(np.float64).std() + 1e-30
    magnitude = np.abs(np.concatenate(parts)).max()
    assert np.abs(whole.mean - split.mean).max() <= 1e-7 * (scale + 1e-4 * magnitude)
    assert np.abs(whole.var - split.var).max() <= 1e-6 * (scale**2 + 1e-8 * magnitude**2)
