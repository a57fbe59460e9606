"""The short form of `make test-powercut`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak import powercut


@pytest.fixture(scope="module")
def able() -> None:
    if (reason := powercut.unable()) is not None:
        pytest.skip(f"power cuts cannot be made here: {reason}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "expected"),
    [(powercut.RIGHT, lambda lost: lost == 0), (powercut.CARELESS, lambda lost: lost > 0)],
    ids=["nothing-is-lost", "a-ledger-that-does-not-wait-is-caught"],
)
@pytest.mark.usefixtures("able")
def test_a_power_cut(tmp_path: Path, module: str, expected: Callable[[int], bool]) -> None:
    found = powercut.cut(tmp_path / "cut", cuts=1, seed=0, module=module)
    assert found.acknowledged > 0
    assert expected(found.lost), found
