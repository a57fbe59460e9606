"""Selection of layers by pattern."""

from __future__ import annotations

import pytest

from bn_ops.core.layers import select_layers
from bn_ops.errors import LayerPatternError, OptionError

NAMES = ["stem.bn", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.bn1"]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (None, set(NAMES)),
        (["*"], set(NAMES)),
        (["layer1.*"], {"layer1.0.bn1", "layer1.0.bn2"}),
        (["!stem.bn"], set(NAMES) - {"stem.bn"}),
        (["layer*", "!*.bn2"], {"layer1.0.bn1", "layer2.0.bn1"}),
        (["!*.bn2", "layer*"], {"layer1.0.bn1", "layer2.0.bn1"}),
        (["stem.bn", "layer2.0.bn1"], {"stem.bn", "layer2.0.bn1"}),
    ],
)
def test_selection(patterns: list[str] | None, chosen: set[str]) -> None:
    assert select_layers(NAMES, patterns) == chosen


@pytest.mark.parametrize("patterns", [["nope"], ["*", "!nope"], ["Stem.bn"]])
def test_pattern_without_match(patterns: list[str]) -> None:
    with pytest.raises(LayerPatternError, match="matches none of the 4 layers"):
        select_layers(NAMES, patterns)


@pytest.mark.parametrize("patterns", [["!*"], ["stem.bn", "!stem*"]])
def test_patterns_that_exclude_all_layers(patterns: list[str]) -> None:
    with pytest.raises(OptionError, match="leave no layer"):
        select_layers(NAMES, patterns)


def test_string_instead_of_list() -> None:
    with pytest.raises(OptionError, match="list of patterns"):
        select_layers(NAMES, "stem.bn")
