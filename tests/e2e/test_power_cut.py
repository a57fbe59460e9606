"""The short form of `make test-powercut`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak import powercut


@pytest.fixture(scope="module")
def supported() -> None:
    if (reason := powercut.unsupported_reason()) is not None:
        pytest.skip(f"power cuts are not supported on this machine: {reason}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "expected"),
    [(powercut.DURABLE, lambda lost: lost == 0), (powercut.NOT_DURABLE, lambda lost: lost > 0)],
    ids=["durable", "not durable"],
)
@pytest.mark.usefixtures("supported")
def test_losses_by_power_cut(tmp_path: Path, module: str, expected: Callable[[int], bool]) -> None:
    found = powercut.cut(tmp_path / "cut", cuts=1, seed=0, module=module)
    assert found.acknowledged > 0
    assert expected(found.lost), found
