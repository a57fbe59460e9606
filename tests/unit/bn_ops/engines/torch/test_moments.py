"""Moments of tensors on every device and in every layout, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bn_ops.core.moments import Moments, from_samples, measure
from bn_ops.engines.torch.moments import _on_device, measure_tensor, positions_of

SHAPES = [(3, 5), (1, 4), (4, 3, 1), (4, 3, 7), (2, 3, 40), (3, 5, 9, 11), (2, 4, 3, 8, 9)]


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {"contiguous": x, "strided": torch.stack([x, -x], dim=-1)[..., 0]}
    if x.ndim == 4:
        found["channels_last"] = x.contiguous(memory_format=torch.channels_last)
    if x.ndim == 5:
        found["channels_last"] = x.contiguous(memory_format=torch.channels_last_3d)
    if x.ndim == 3:
        found["channels_last"] = x.transpose(1, 2).contiguous().transpose(1, 2)
    return found


def on_device(x: torch.Tensor) -> Moments:
    return from_samples(*_on_device(x), positions_of(x))


def assert_right(found: Moments, x: torch.Tensor, rtol: float = 1e-6) -> None:
    """Compare with float64 moments; the mean in units of the standard deviation."""
    wide = x.double().movedim(1, -1).reshape(-1, x.shape[1])
    mean, var = wide.mean(0).numpy(), wide.var(0, correction=0).numpy()
    spread = np.sqrt(var) + 1e-300
    assert found.samples == x.shape[0]
    assert found.count == wide.shape[0]
    assert np.abs((found.mean - mean) / np.maximum(spread, np.abs(mean))).max() <= rtol
    np.testing.assert_allclose(found.var_population, var, rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 3.0, 1000.0])
def test_memory_layouts(shape: tuple[int, ...], offset: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + offset
    for tensor in layouts(x).values():
        assert_right(measure_tensor(tensor), x)
        assert_right(on_device(tensor), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_dtypes_are_widened(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(1)) * 2 + 1).to(dtype)
    for tensor in layouts(x).values():
        assert_right(measure_tensor(tensor), x)
        assert_right(on_device(tensor), x)


def test_sample_sums_equal_numpy() -> None:
    x = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(2)) + 2
    wanted = measure(x.numpy()).sample_sums
    for tensor in layouts(x).values():
        found = measure_tensor(tensor).sample_sums
        for name in ("center", "a", "e", "aa", "ae", "ee"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_values_propagate(bad: float) -> None:
    x = torch.randn(2, 3, 8, 8)
    x[1, 2, 3, 4] = bad
    for tensor in layouts(x).values():
        for found in (
            measure_tensor(tensor),
            on_device(tensor),
        ):
            assert not np.isfinite(found.sum_sq_dev[2])
            assert np.isfinite(found.sum_sq_dev[:2]).all()


def test_precision_with_large_mean() -> None:
    x = torch.randn(64, 1, 448, 448, generator=torch.Generator().manual_seed(3)) + 1000
    assert x.numel() > 12_800_000
    assert_right(measure_tensor(x), x)
    two = torch.cat([x[:8], x[:8] - 1000], dim=1).contiguous(memory_format=torch.channels_last)
    assert_right(measure_tensor(two), two)


def test_tensor_that_requires_grad() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert_right(measure_tensor(x), x.detach())
    assert x.grad is None
