"""The sign test and its warning."""

from __future__ import annotations

import math

import pytest

from bn_ops.diagnostics.labelled_error import evaluation_warnings, sign_test
from bn_ops.diagnostics.report import EvaluationReport


def exact(broken: int, mended: int) -> float:
    pairs, fewer = broken + mended, min(broken, mended)
    ways = sum(math.comb(pairs, k) for k in range(fewer + 1))
    return min(1.0, float(2 * ways / 2**pairs))


@pytest.mark.parametrize("pair", [(0, 0), (0, 1), (1, 1), (0, 5), (3, 17), (40, 61), (480, 520)])
def test_the_sign_test_is_the_binomial_sum(pair: tuple[int, int]) -> None:
    # Logarithms of factorials of a thousand are known to about 1e-12.
    assert sign_test(*pair) == pytest.approx(exact(*pair), rel=1e-10)
    assert sign_test(*pair) == sign_test(*reversed(pair))


def found(before: float, after: float, broken: int, mended: int, **more: object) -> tuple[str, ...]:
    chance = more.get("chance", sign_test(broken, mended))
    assert chance is None or isinstance(chance, float)
    return evaluation_warnings(
        EvaluationReport(
            output="y",
            samples=100,
            labels=100,
            error_before=before,
            error_after=after,
            broken=broken,
            mended=mended,
            chance=chance,
        )
    )


def test_a_rise_of_the_error_is_warned_of_and_weighed() -> None:
    assert found(0.2, 0.1, 2, 12) == ()
    assert found(0.1, 0.1, 3, 3) == ()
    (sure,) = found(0.1, 0.3, 21, 1)
    assert "from 10.0 % to 30.0 %" in sure
    assert "more than chance" in sure
    (unsure,) = found(0.1, 0.12, 4, 2)
    assert "may be chance" in unsure
    (dense,) = found(0.1, 0.3, 900, 1, chance=None)
    assert dense.endswith("right)")
