"""Arithmetic of sizes, casts and affine maps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bn_ops.errors import OptionError
from bn_ops.folding import LayerFold
from bn_ops.folding.affine import ChannelAffine, along
from bn_ops.folding.casting import cast, cast_fault
from bn_ops.folding.rules.reshape import Size, Sizes, carry, product, quotient

HALF, SINGLE, BRAIN = ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.BFLOAT16


def _sizes(*dims: int | str) -> Sizes:
    return tuple(Size(number=d) if isinstance(d, int) else Size(number=1, free=(d,)) for d in dims)


def _affine(*scale: float, axis: int = 1) -> ChannelAffine:
    return ChannelAffine(scale=np.array(scale), shift=10 * np.array(scale), axis=axis)


def _scale(affine: ChannelAffine | None) -> list[float] | None:
    return None if affine is None else affine.scale.tolist()


@pytest.mark.parametrize(
    ("source", "target", "axis", "scale"),
    [
        (("N", 2, 3, 3), ("N", 18), 1, [1.0] * 9 + [2.0] * 9),
        (("N", 2, "H", "W"), ("N", 2, "H"), 1, [1.0, 2.0]),
        (("N", 2), ("N", 2, 1, 1), 1, [1.0, 2.0]),
        (("N", 2), ("N", 1, 2), 2, [1.0, 2.0]),
        (("A", 2, "B"), ("A", 2, "C"), 1, [1.0, 2.0]),
        ((4, 2, 6), (2, 2, 2, 6), 2, [1.0, 2.0]),
        (("N", 2, 4), ("N", 4, 2, 1), 1, [1.0, 1.0, 2.0, 2.0]),
    ],
)
def test_map_through_reshape(
    source: tuple[int | str, ...], target: tuple[int | str, ...], axis: int, scale: list[float]
) -> None:
    carried = carry(_affine(1.0, 2.0), _sizes(*source), _sizes(*target))
    assert carried is not None
    assert (carried.axis, carried.scale.tolist()) == (axis, scale)
    assert carried.shift.tolist() == [10 * value for value in scale]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (("N", 2, 3), ("N", 3, 2)),  # keeps the element order but not the channels
        (("N", 2), ("M", 2, 1, "K")),  # N and M may differ
        (("N", 2, "H"), ("N", 6)),  # the number of positions is unknown
        ((2, 2), (4,)),  # merges samples and channels
    ],
)
def test_map_through_unknown_reshape(
    source: tuple[int | str, ...], target: tuple[int | str, ...]
) -> None:
    assert carry(_affine(1.0, 2.0), _sizes(*source), _sizes(*target)) is None


def test_map_through_merge_of_equal_channels() -> None:
    assert _scale(carry(_affine(3.0, 3.0, 5.0, 5.0), _sizes("N", 4), _sizes("N", 2, 2))) == [3, 5]
    assert _scale(carry(_affine(3.0, 4.0, 5.0, 5.0), _sizes("N", 4), _sizes("N", 2, 2))) is None


def test_carried_map_is_elementwise_equal() -> None:
    x = np.random.default_rng(0).standard_normal((5, 4, 3, 2))
    affine = _affine(1.0, 2.0, 3.0, 4.0)
    carried = carry(affine, _sizes("N", 4, 3, 2), _sizes("N", 24))
    assert carried is not None
    before = (x * along(affine.scale, axis=1, rank=4)).reshape(5, 24)
    assert np.array_equal(before, x.reshape(5, 24) * carried.scale)


def test_products_and_quotients_of_free_sizes() -> None:
    whole = product(_sizes("N", 6, "T"))
    assert whole == Size(number=6, free=("N", "T"))
    assert quotient(whole, Size(number=3, free=("T",))) == Size(number=2, free=("N",))
    assert quotient(whole, Size(number=4)) is None
    assert quotient(whole, Size(number=1, free=("X",))) is None
    assert product([Size(number=2), None]) is None


def test_composition_order() -> None:
    first = ChannelAffine(scale=np.array([2.0]), shift=np.array([3.0]), axis=1)
    second = ChannelAffine(scale=np.array([5.0]), shift=np.array([7.0]), axis=1)
    both = second.after(first)
    assert (both.scale[0], both.shift[0]) == (10.0, 22.0)


@pytest.mark.parametrize(
    ("values", "dtype", "fault"),
    [
        ([65504.0], HALF, None),
        ([65520.0], HALF, "overflow"),
        ([1.0, np.nan], SINGLE, "overflow"),
        ([1e39], SINGLE, "overflow"),
        ([1e39], ir.DataType.DOUBLE, None),
        ([3e38], BRAIN, None),
        ([1e-7], HALF, "underflow"),
        ([1.0, 1e-7], HALF, None),
        ([0.0, 0.0], HALF, None),
        ([1e-40, 1.0], SINGLE, None),
        ([], HALF, None),
    ],
)
def test_cast_out_of_range(values: list[float], dtype: ir.DataType, fault: str | None) -> None:
    assert cast_fault(np.array(values), dtype) == fault


def test_cast_rounds_to_nearest() -> None:
    assert cast(np.array([1.0 + 2.0**-11 + 2.0**-20]), HALF)[0] == np.float16(1.0 + 2.0**-10)


@pytest.mark.parametrize(
    ("status", "reason"), [("kept", None), ("folded", "because")], ids=["kept", "folded"]
)
def test_only_kept_layers_have_a_reason(status: str, reason: str | None) -> None:
    with pytest.raises(OptionError):
        LayerFold(name="a", status=status, rule=None, reason=reason)  # type: ignore[arg-type]  # both are words
