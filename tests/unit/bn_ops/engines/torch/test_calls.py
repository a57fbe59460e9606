"""Valid and invalid forms of batches for a module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bn_ops import recalibrate
from bn_ops.errors import (
    BatchError,
    BatchInputError,
    BatchNotFiniteError,
    BatchShapeError,
    EngineError,
    OptionError,
)
from bn_ops.torch_modules.arguments import read_items


class Flexible(nn.Module):
    """Takes an image and an optional mask; calls BatchNorm with a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def forward(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        masked = image if mask is None else image * mask
        return self.bn(input=masked)


class OneDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        return self.bn(batch["image"])


X = torch.tensor([[1.0, 2.0], [3.0, 6.0], [8.0, -2.0]])
MASK = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def mean_of(model: Any) -> list[float]:
    return [round(value, 5) for value in model.bn.running_mean.tolist()]


PLAIN, MASKED = [4.0, 2.0], [round(4 / 3, 5), round(4 / 3, 5)]


@pytest.mark.parametrize(
    ("batches", "options", "wanted"),
    [
        ([X[:2], X[2:]], {}, PLAIN),
        ([X.numpy()], {}, PLAIN),
        ([(X,)], {}, PLAIN),
        ([(X, MASK)], {}, MASKED),
        ([[X, MASK]], {}, MASKED),
        ([{"image": X, "mask": MASK}], {}, MASKED),
        ([{"mask": MASK.numpy(), "image": X.numpy()}], {}, MASKED),
        ([(X, "label")], {"select": lambda item: item[0]}, PLAIN),
        ([(X, 3)], {"call": lambda model, batch: model(batch[0], mask=MASK)}, MASKED),
        ([{"any": "thing"}], {"call": lambda model, _: model(X)}, PLAIN),
    ],
)
def test_forms_of_batches(batches: list[Any], options: dict[str, Any], wanted: list[float]) -> None:
    model = Flexible()
    recalibrate(model, batches, **options)
    assert mean_of(model) == wanted


def test_dict_as_single_argument() -> None:
    model = OneDict()
    recalibrate(model, [{"image": X, "ignored": "text"}])
    assert mean_of(model) == PLAIN


def test_generator_is_read_once() -> None:
    model = Flexible()
    recalibrate(model, (part for part in torch.split(X, 1)))
    assert mean_of(model) == PLAIN


def test_read_only_arrays() -> None:
    array = X.numpy().copy()
    array.flags.writeable = False
    model = Flexible()
    recalibrate(model, [array])
    assert mean_of(model) == PLAIN


def test_calibration_samples_have_parameter_names() -> None:
    done = recalibrate(Flexible(), [(X, MASK)])
    assert sorted(done.calibration[0]) == ["image", "mask"]
    np.testing.assert_array_equal(done.calibration[0]["mask"], MASK.numpy())


@pytest.mark.parametrize(
    ("batches", "kind", "words"),
    [
        ([(X, MASK, 1, 2)], BatchInputError, "select=lambda item: item"),
        ([{"picture": X}], EngineError, "KeyError|TypeError|unsupported|attribute"),
        ([3], BatchInputError, "holds no tensor"),
        ([X[:0]], BatchShapeError, "no sample"),
        (X, OptionError, "wrap it in a list"),
        ({"image": X}, OptionError, "wrap it in a list"),
        ([torch.zeros(2, 5)], EngineError, "batch 0: the module's forward failed"),
    ],
)
def test_mismatched_batches(batches: Any, kind: type[Exception], words: str) -> None:
    model = Flexible()
    with pytest.raises(kind, match=words):
        recalibrate(model, batches)
    assert mean_of(model) == [0.0, 0.0]


def test_nan_names_the_input() -> None:
    with pytest.raises(BatchError) as caught:
        recalibrate(Flexible(), [{"image": X, "mask": MASK * float("nan")}])
    assert caught.value.details() == {"batch": 0, "input": "mask"}


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    large = torch.full((2, 3, 8, 8), 3e38)
    module = Flexible()
    items = list(read_items(module, [{"image": large}], select=None, convert=True))
    assert items[0].samples == 2
    large[1, 2, 3, 4] = float("inf")
    large[0, 0, 0, 0] = float("-inf")
    with pytest.raises(BatchNotFiniteError, match="image"):
        list(read_items(module, [{"image": large}], select=None, convert=True))
