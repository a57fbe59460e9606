"""Forms of example inputs, and names of inputs, outputs and axes of the exported model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bn_ops.errors import ExportError, ModelUnsupportedError, OptionError
from bn_ops.exporting import export
from tests.support.onnx_run import run_onnx


class Pair(NamedTuple):
    mean: torch.Tensor
    raw: torch.Tensor


class Nested(nn.Module):
    """Nested inputs with constants, and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def forward(
        self, image: torch.Tensor, batch: dict[str, Any], gain: float = 1.0, *, flag: bool = False
    ) -> dict[str, Any]:
        y = self.bn(image) * gain
        return {
            "sum": y + batch["left"],
            "pair": Pair(mean=batch["more"][0].mean(1), raw=y if flag else -y),
        }


def shapes(values: Any) -> dict[str, list[str | int]]:
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_names_and_free_axis() -> None:
    x = torch.randn(4, 2)
    call = (x, {"left": x, "more": [torch.randn(4, 5)]}, 2.0)
    proto = export(Nested(), call)
    assert shapes(proto.graph.input) == {
        "image": ["batch", 2],
        "left": ["batch", 2],
        "batch_more_0": ["batch", 5],
    }
    assert shapes(proto.graph.output) == {
        "sum": ["batch", 2],
        "mean": ["batch"],
        "raw": ["batch", 2],
    }


def test_dict_of_named_arguments() -> None:
    x = torch.randn(4, 2)
    batch = {"left": x, "more": [x]}
    proto = export(Nested(), {"image": x, "batch": batch, "flag": True})
    with torch.no_grad():
        wanted = Nested().eval()(x, batch, flag=True)["pair"].raw.numpy()
    found = run_onnx(proto, {"image": x.numpy(), "left": x.numpy(), "batch_more_0": x.numpy()})
    np.testing.assert_allclose(found[2].astype(np.float64), wanted, atol=1e-6)


class FromDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        return self.bn(batch["a"]) + batch["b"], batch["a"] * 2


def test_dict_as_single_argument() -> None:
    proto = export(FromDict(), {"a": torch.randn(3, 2), "b": torch.randn(3, 2)})
    assert list(shapes(proto.graph.input)) == ["a", "b"]
    assert list(shapes(proto.graph.output)) == ["output_0", "output_1"]


def test_example_of_one_sample() -> None:
    proto = export(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), torch.randn(1, 1, 3, 3))
    found = run_onnx(proto, {"input": np.zeros((7, 1, 3, 3), np.float32)})
    assert found[0].shape == (7, 2, 3, 3)


def test_arrays_as_example() -> None:
    proto = export(nn.Sequential(nn.BatchNorm1d(2)), np.zeros((3, 2), np.float32))
    assert shapes(proto.graph.input) == {"input": ["batch", 2]}


def test_fixed_batch_axis() -> None:
    proto = export(nn.Sequential(nn.BatchNorm1d(2)), torch.randn(3, 2), dynamic_batch=False)
    assert shapes(proto.graph.input) == {"input": [3, 2]}


def test_input_without_batch_axis() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor, table: torch.Tensor) -> Any:
            return self.bn(x) @ table

    proto = export(Table(), (torch.randn(4, 2), torch.randn(2, 3)))
    assert shapes(proto.graph.input) == {"x": ["batch", 2], "table": [2, 3]}


@pytest.mark.parametrize("example", [(), {}, (1, 2), [torch.tensor(1.0)]])
def test_example_without_batch(example: Any) -> None:
    with pytest.raises(OptionError, match="example"):
        export(nn.Sequential(nn.BatchNorm1d(2)), example)


def test_example_that_does_not_match_forward() -> None:
    with pytest.raises(OptionError, match=r"Sequential\.forward"):
        export(nn.Sequential(nn.BatchNorm1d(2)), (torch.randn(3, 2), torch.randn(3, 2)))


def test_object_that_is_not_a_module() -> None:
    with pytest.raises(ModelUnsupportedError, match="dict"):
        export({}, torch.randn(3, 2))  # type: ignore[arg-type]


class ByNumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 6)


def test_constant_batch_size_in_code() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), ByNumber())
    with pytest.raises(ExportError, match="dynamic_batch=False"):
        export(model, torch.randn(2, 6))
    assert isinstance(export(model, torch.randn(2, 6), dynamic_batch=False), onnx.ModelProto)
