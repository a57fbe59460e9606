"""Preprocessing by name: the values of bn_ops, at the size of the model's input."""

from __future__ import annotations

from dataclasses import replace

import pytest

import bn_ops
from bn_ops.preprocess import presets as library
from bnrecal_client.cli.data.presets import PRESETS, preset
from bnrecal_client.errors import OptionError


@pytest.mark.parametrize("name", PRESETS)
def test_values_equal_the_library(name: str) -> None:
    form = preset(name, [["N", 3, 224, 224]])
    found = bn_ops.preprocess_from_json(form)
    assert replace(found, resize=None, crop=None) == library.PRESETS[name]
    assert set(PRESETS) == set(library.PRESETS)


def test_size_and_layout_follow_the_input() -> None:
    square = preset("imagenet", [["N", 3, 224, 224]])
    assert (square["resize"], square["crop"], square["layout"]) == (256, [224, 224], "nchw")
    wide = preset("unit", [["N", 48, 192, 3]])
    assert (wide["resize"], wide["crop"], wide["layout"]) == ([55, 219], [48, 192], "nhwc")
    assert preset("unit", [[None, 1, 28, 28]])["color"] == "gray"


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("unit", [["N", 3, "height", "width"]]),
        ("unit", [["N", 10]]),
        ("unit", [None]),
        ("unit", [["N", 3, 8, 8], ["N", 3, 8, 8]]),
        ("imagenet", [["N", 1, 28, 28]]),
    ],
)
def test_unsuitable_inputs_are_refused(
    name: str, shapes: list[list[int | str | None] | None]
) -> None:
    with pytest.raises(OptionError, match=f"--preprocess {name}"):
        preset(name, shapes)
