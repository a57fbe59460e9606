"""Stages are consecutive, complete, few, and named after the layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.diagnostics.html.stages import stages
from tests.support.reports import many_layers

DENSENET = [
    "features.norm0",
    *[f"features.denseblock{b}.denselayer{i}.norm1" for b in (1, 2) for i in range(6)],
    "features.norm5",
]


def grouped(names: list[str]) -> list[tuple[str, int]]:
    return [(stage.name, len(stage.layers)) for stage in stages(many_layers(names))]


def test_common_prefix_is_followed_to_where_names_differ() -> None:
    assert grouped(DENSENET) == [
        ("features.norm0", 1),
        ("features.denseblock1", 6),
        ("features.denseblock2", 6),
        ("features.norm5", 1),
    ]


def test_exported_names() -> None:
    names = [f"/layer{b}/layer{b}.{i}/bn1/BatchNormalization" for b in (1, 2) for i in range(20)]
    assert grouped(names) == [("layer1", 20), ("layer2", 20)]


def test_names_without_structure_are_numbered() -> None:
    names = [f"BatchNormalization_{i}" for i in range(121)]
    found = grouped(names)
    assert found[0] == ("layers 1 to 9", 9)
    assert found[-1][0].endswith(" to 121")
    assert {size for _, size in found} == {9, 10}


def test_small_network_is_one_stage() -> None:
    assert grouped(["a.x", "b.x"]) == [("all layers", 2)]
    assert grouped([]) == []


@given(st.lists(st.text("ab./1", max_size=8), max_size=60))
@pytest.mark.parametrize("suffix", ["", "/BatchNormalization"])
def test_stages_are_a_partition(suffix: str, names: list[str]) -> None:
    layers = many_layers([name + suffix for name in names])
    found = stages(layers)
    assert tuple(layer for stage in found for layer in stage.layers) == layers
    assert [stage.first for stage in found] == [
        sum(len(before.layers) for before in found[:index]) for index in range(len(found))
    ]
    assert len(found) <= 24
