"""Numbers for people: rounded, with a unit, never with an exponent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.diagnostics.html import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.64e-7, "0.00"),
        (-3.64e-7, "0.00"),
        (0.446, "0.45"),
        (-1.5, "-1.50"),
        (12.34, "12.3"),
        (478.4, "478"),
        (12_345.6, "12,346"),
        (1e12, "more than 1,000,000"),
        (-1e12, "less than -1,000,000"),
        (math.inf, "–"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert numbers.number(value) == text


def test_units() -> None:
    assert numbers.sigma(3.64e-7) == "0.00 σ"
    assert numbers.sigma(None) == "–"
    assert numbers.parts_per_million(4.96e-7) == "0.50 ppm"
    assert numbers.percent(0.468) == "46.8 %"
    assert numbers.share(0.406) == "41 %"
    assert numbers.share(0.004) == "0.4 %"
    assert numbers.share(0.0) == "0 %"
    assert numbers.factor(math.log(2)) == "×2.00"
    assert numbers.factor(1e4) == "> ×1,000,000"
    assert numbers.plural(1, "batch", "batches") == "1 batch"
    assert numbers.plural(1_200, "batch", "batches") == "1,200 batches"
    assert numbers.duration(2.44) == "2.4 s"
    assert numbers.duration(3_723.6) == "62 min 4 s"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_float_has_an_exponent(value: float) -> None:
    for text in (
        numbers.number(value),
        numbers.sigma(value),
        numbers.parts_per_million(value),
        numbers.factor(abs(value)),
    ):
        assert "e" not in text.replace("more than", "").replace("less than", "")
        assert len(text) < 30
