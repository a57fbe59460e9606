"""The sign test and its warning."""

from __future__ import annotations

import math

import pytest

from bn_ops.diagnostics.labeled_error import evaluation_warnings, sign_test
from bn_ops.diagnostics.report import EvaluationReport


def exact(newly_wrong: int, newly_right: int) -> float:
    pairs, fewer = newly_wrong + newly_right, min(newly_wrong, newly_right)
    ways = sum(math.comb(pairs, k) for k in range(fewer + 1))
    return min(1.0, float(2 * ways / 2**pairs))


@pytest.mark.parametrize("pair", [(0, 0), (0, 1), (1, 1), (0, 5), (3, 17), (40, 61), (480, 520)])
def test_sign_test_equals_binomial_sum(pair: tuple[int, int]) -> None:
    # Logarithms of factorials of a thousand have a precision of about 1e-12.
    assert sign_test(*pair) == pytest.approx(exact(*pair), rel=1e-10)
    assert sign_test(*pair) == sign_test(*reversed(pair))


def found(
    before: float, after: float, newly_wrong: int, newly_right: int, **more: object
) -> tuple[str, ...]:
    p_value = more.get("p_value", sign_test(newly_wrong, newly_right))
    assert p_value is None or isinstance(p_value, float)
    return evaluation_warnings(
        EvaluationReport(
            output="y",
            samples=100,
            labels=100,
            error_before=before,
            error_after=after,
            newly_wrong=newly_wrong,
            newly_right=newly_right,
            p_value=p_value,
        )
    )


def test_warning_about_rising_error() -> None:
    assert found(0.2, 0.1, 2, 12) == ()
    assert found(0.1, 0.1, 3, 3) == ()
    (sure,) = found(0.1, 0.3, 21, 1)
    assert "from 10.0 % to 30.0 %" in sure
    assert "more than chance" in sure
    (unsure,) = found(0.1, 0.12, 4, 2)
    assert "may be chance" in unsure
    (dense,) = found(0.1, 0.3, 900, 1, p_value=None)
    assert dense.endswith("right)")
