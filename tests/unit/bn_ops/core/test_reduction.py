"""Reductions, compiled and by numpy, against float64 sums of numpy over the same values."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bn_ops.core import reduction
from bn_ops.core.reduction import is_compiled, reduce_interleaved, reduce_rows

SOURCE = Path(reduction.__file__).with_name("_reduction.c")

# (N, P, C): planar rows are those with one channel.
SHAPES = [
    (1, 1, 1),
    (3, 31, 1),
    (5, 32, 1),
    (2, 12345, 1),
    (4, 49, 8),
    (3, 50, 16),
    (2, 7, 24),
    (2, 13, 20),  # channels beyond whole vectors
    (3, 5, 3),
    (2, 33, 64),
    (2, 19, 152),  # whole groups, a pair, a vector
    (1, 3001, 130),  # several blocks
    (4, 1, 96),
]


@pytest.fixture(params=["compiled", "numpy"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "compiled" and not is_compiled():
        pytest.skip("the reduction is not compiled in this installation")
    if request.param == "numpy":
        monkeypatch.setattr(reduction, "_compiled", lambda: None)
    return str(request.param)


def oracle(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=1)
    return mean.astype(float), ((wide - mean[:, None]) ** 2).sum(axis=1).astype(float)


def draw(shape: tuple[int, ...], dtype: str, offset: float) -> np.ndarray:
    x = np.random.default_rng(0).normal(offset, 1, shape)
    return x.astype(np.dtype(dtype))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("offset", [0.0, -3.0, 1000.0])
def test_moments_equal_the_oracle(shape: tuple[int, int, int], dtype: str, offset: float) -> None:
    assert ml_dtypes.bfloat16 is not None  # registers the dtype's name
    x = draw(shape, dtype, offset)
    mean, sq_dev = reduce_interleaved(x)
    expected_mean, expected_sq_dev = oracle(x)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-14, atol=1e-13)
    # 2**-53 for each of P additions, with shifted data of at most a few σ.
    np.testing.assert_allclose(sq_dev, expected_sq_dev, rtol=1e-11, atol=1e-10)


@pytest.mark.usefixtures("form")
def test_an_outlier_in_front_keeps_the_variance() -> None:
    x = np.random.default_rng(1).normal(0, 1, (4, 4000)).astype(np.float32)
    x[:, 0] = 1e5
    sq_dev = reduce_rows(x)[1]
    np.testing.assert_allclose(sq_dev, oracle(x[:, :, None])[1][:, 0], rtol=1e-9)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("shape", [(3, 100, 1), (3, 100, 24)])
def test_constant_rows_have_zero_variance(shape: tuple[int, int, int]) -> None:
    mean, sq_dev = reduce_interleaved(np.full(shape, 0.1, np.float32))
    assert (sq_dev == 0).all()
    assert (mean == np.float64(np.float32(0.1))).all()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 40])
@pytest.mark.parametrize("channels", [1, 20])
def test_non_finite_values_reach_their_own_row_only(bad: float, place: int, channels: int) -> None:
    x = np.ones((3, 50, channels), np.float32)
    x[1, place, -1] = bad
    mean, sq_dev = reduce_interleaved(x)
    finite = np.isfinite(mean) & np.isfinite(sq_dev)
    assert not finite[1, -1]
    assert finite.sum() == finite.size - 1


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_finite_16_bit_number_is_widened_exactly(dtype: type) -> None:
    every: np.ndarray = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # comparing a signaling NaN
        numbers = every[np.isfinite(every)]
    mean, sq_dev = reduce_rows(numbers[:, None])
    assert np.array_equal(mean, numbers.astype(np.float64))
    assert not sq_dev.any()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("channels", [1, 16])
def test_threads_and_neighbors_leave_the_bits_alone(channels: int) -> None:
    x = draw((64, 3000 // channels * 16, channels), "float32", 1.0)
    whole = reduce_interleaved(x, workers=1)
    threaded = reduce_interleaved(x, workers=3)
    alone = [reduce_interleaved(x[i : i + 1], workers=1) for i in range(len(x))]
    for kind in (0, 1):
        assert np.array_equal(whole[kind], threaded[kind])
        assert np.array_equal(whole[kind], np.concatenate([part[kind] for part in alone]))


@pytest.mark.usefixtures("form")
def test_strided_rows_equal_contiguous_ones() -> None:
    x = draw((6, 80, 40), "float32", 0.0)
    for view in (x[::2, 1::3, 4:20], x.transpose(1, 0, 2), x[:, ::-1]):
        found, expected = reduce_interleaved(view), reduce_interleaved(np.ascontiguousarray(view))
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 90), st.integers(1, 80)),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(1e-3, 1e3),
)
@settings(max_examples=60, deadline=None)
def test_both_forms_agree(shape: tuple[int, int, int], seed: int, scale: float) -> None:
    if not is_compiled():
        pytest.skip("the reduction is not compiled in this installation")
    rng = np.random.default_rng(seed)
    x = (rng.normal(rng.normal() * 10, 1, shape) * scale).astype(np.float32)
    found = reduce_interleaved(x)
    numpy_form = np.empty_like(found[0]), np.empty_like(found[1])
    reduction._reduce_with_numpy(x, *numpy_form)
    np.testing.assert_allclose(found[0], numpy_form[0], rtol=1e-12, atol=1e-12 * scale)
    np.testing.assert_allclose(found[1], numpy_form[1], rtol=1e-11, atol=1e-11 * scale**2)


def test_mismatched_buffer_sizes_are_rejected() -> None:
    if not is_compiled():
        pytest.skip("the reduction is not compiled in this installation")
    from bn_ops.core import _reduction

    data, out = np.zeros(40, np.uint8), np.zeros(2)
    for rows, length in ((2, 6), (0, 5), (-2, -5), (1 << 62, 8)):
        with pytest.raises(ValueError, match="do not match"):
            _reduction.reduce(data, out, out.copy(), 0, rows, length, 1, 1, 1)
    with pytest.raises(ValueError, match="element type"):
        _reduction.reduce(data, out, out.copy(), 9, 2, 5, 1, 1, 1)
    for step, threads in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="must be positive"):
            _reduction.reduce(data, out, out.copy(), 0, 2, 5, 1, step, threads)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 20, 130])
def test_threads_of_openmp_leave_the_bits_alone(
    channels: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = draw((37, 3000, channels), "float32", 1.0)
    expected = reduce_interleaved(x, workers=1)
    found = reduce_interleaved(x, workers=threads, openmp=True)
    # Without such a runtime in the process, new threads do the same.
    monkeypatch.setattr(reduction, "_compiled", lambda: None)
    fallback = reduce_interleaved(x, workers=threads, openmp=True)
    for kind in (0, 1):
        assert np.array_equal(found[kind], expected[kind])
        np.testing.assert_allclose(fallback[kind], expected[kind], rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(sys.platform != "linux", reason="other builds of torch have other runtimes")
def test_torch_brings_the_threads() -> None:
    assert torch.get_num_threads() > 0
    if not is_compiled():
        pytest.skip("the reduction is not compiled in this installation")
    from bn_ops.core import _reduction

    assert _reduction.has_openmp()


def compiled_for(folder: Path, *flags: str) -> ModuleType:
    """Return the reduction compiled with other flags, without the clones per processor."""
    target = folder / "_reduction.so"
    include = f"-I{sysconfig.get_paths()['include']}"
    common = ["-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared", "-DPy_LIMITED_API=0x030B0000"]
    command = ["cc", *common, "-DCLONES=", include, *flags, str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    loader = importlib.machinery.ExtensionFileLoader("_reduction", str(target))
    spec = importlib.util.spec_from_loader("_reduction", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "flags", [("-O1",), ("-O3", "-mno-avx"), ("-O3", "-march=native")], ids=str
)
def test_every_instruction_set_gives_the_same_bits(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_compiled() or shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    arrays = [draw(shape, dtype, 2.0) for shape in SHAPES for dtype in ("float32", "float16")]
    expected = [reduce_interleaved(x) for x in arrays]
    other = compiled_for(tmp_path, *flags)
    monkeypatch.setattr(reduction, "_compiled", lambda: other)
    for x, (mean, sq_dev) in zip(arrays, expected, strict=True):
        found = reduce_interleaved(x)
        assert np.array_equal(found[0], mean)
        assert np.array_equal(found[1], sq_dev)
