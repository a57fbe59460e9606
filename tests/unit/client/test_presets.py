"""Preprocessing by name: the values of bn_ops, at the size of the model's input."""

from __future__ import annotations

from dataclasses import replace

import pytest

import bn_ops
from bn_ops import errors
from bn_ops.core.signature import TensorInfo
from bn_ops.preprocess import presets as library
from bnrecal_client.cli.data.preprocess_files import PRESETS, preset
from bnrecal_client.errors import OptionError


@pytest.mark.parametrize("name", PRESETS)
def test_values_equal_the_library(name: str) -> None:
    form = preset(name, [["N", 3, 224, 224]])
    found = bn_ops.preprocess_from_json(form)
    assert replace(found, resize=None, crop=None) == library.PRESETS[name]
    assert set(PRESETS) == set(library.PRESETS)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "shape",
    [("N", 3, 224, 224), ("N", 48, 192, 3), (None, 1, 28, 28), ("N", 3, 33, 47), ("N", 10), None],
)
def test_fitted_equals_the_library(name: str, shape: tuple[int | str | None, ...] | None) -> None:
    inputs = [TensorInfo(name="x", dtype="float32", shape=shape)]
    try:
        form = preset(name, [shape])
    except OptionError:
        with pytest.raises(errors.OptionError):
            library.fitted(name, inputs)
    else:
        assert library.fitted(name, inputs) == bn_ops.preprocess_from_json(form)


def test_fitted_takes_open_sizes_and_the_type() -> None:
    inputs = [TensorInfo(name="x", dtype="float16", shape=("N", 3, "H", "W"))]
    with pytest.raises(errors.OptionError, match="any size"):
        library.fitted("unit", inputs)
    found = library.fitted("unit", inputs, size=(224, 448))
    assert (found.crop, found.dtype) == ((224, 448), "float16")
    assert found.resize == bn_ops.Resize(size=(256, 512))
    assert library.image_size(inputs) is None


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
