"""Modules that count as layers, their description, and writing of statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from bn_ops import recalibrate
from bn_ops.core.statistics import RunningStatistics
from bn_ops.engines.torch import (
    FrozenForm,
    describe_module,
    load_statistics,
    register_frozen,
)
from bn_ops.engines.torch.layers import find_layers, write
from bn_ops.errors import (
    ModelInvalidError,
    ModelUnsupportedError,
    ModelWithoutBatchNormError,
    OptionError,
)
from bn_ops.torch_modules.frozen_batchnorm import frozen_eps
from tests.support.torch_oracle import stored
from tests.support.zoo_blocks import BatchNormAct2d, FrozenBatchNorm2d


def test_layers_in_registration_order() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3, eps=1e-3), nn.Sequential(FrozenBatchNorm2d(2)), nn.BatchNorm1d(4)
    )
    nn.init.constant_(model[2].weight, 2.0)  # type: ignore[arg-type]
    infos = describe_module(model)
    assert [(i.name, i.channels, i.eps, i.affine, i.input_rank, i.reason) for i in infos] == [
        ("0", 3, 1e-3, False, 4, None),
        ("1.0", 2, 1e-5, False, None, None),
        ("2", 4, 1e-5, True, None, None),
    ]
    statistics = infos[0].statistics
    assert statistics is not None
    np.testing.assert_array_equal(statistics.var, np.ones(3))


def test_module_with_two_names_is_one_layer() -> None:
    layer = nn.BatchNorm1d(2)
    assert [info.name for info in describe_module(nn.ModuleDict({"a": layer, "b": layer}))] == ["a"]


def test_root_module_as_layer() -> None:
    model = nn.BatchNorm1d(2)
    done = recalibrate(model, [torch.tensor([[1.0, 2.0], [3.0, 6.0]])])
    np.testing.assert_array_equal(done.statistics["batch_norm"].mean, [2.0, 4.0])


def test_uninitialized_lazy_layers_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d())
    assert "lazy" in str(describe_module(model)[0].reason)
    with pytest.raises(ModelWithoutBatchNormError, match="run one batch"):
        recalibrate(model, [torch.randn(4, 3)])
    model(torch.randn(4, 3))
    done = recalibrate(model, [torch.randn(4, 3)])
    assert list(done.statistics) == ["1"]


def test_untracked_layers_are_reported() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    done = recalibrate(model, [torch.randn(4, 2)])
    assert {r.name: r.status for r in done.report.layers} == {
        "0": "recalibrated",
        "1": "unsupported",
    }


def test_network_without_layers() -> None:
    with pytest.raises(ModelWithoutBatchNormError, match="LayerNorm"):
        recalibrate(nn.Linear(2, 2), [torch.randn(4, 2)])


class Affine(nn.Module):
    """A module with the buffers of a frozen BatchNorm that divides by the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(2))
        self.register_buffer("running_var", torch.full((2,), 4.0))

    def forward(self, x: torch.Tensor) -> Any:
        return x / self.get_buffer("running_var")


def test_buffer_names_alone_are_not_sufficient() -> None:
    assert frozen_eps(Affine()) is None
    assert frozen_eps(FrozenBatchNorm2d(3, eps=1e-2)) == 1e-2
    assert frozen_eps(nn.BatchNorm2d(3)) is None


class Foreign(nn.Module):
    """A frozen BatchNorm with other buffer names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.zeros(2))
        self.register_buffer("sigma2", torch.ones(2))
        self.epsilon = 1e-4

    def forward(self, x: torch.Tensor) -> Any:
        spread = (self.get_buffer("sigma2") + self.epsilon).sqrt()
        return (x - self.get_buffer("mu")) / spread


def test_registration_of_frozen_batchnorm(monkeypatch: pytest.MonkeyPatch) -> None:
    from bn_ops.torch_modules import frozen_batchnorm as _frozen

    monkeypatch.setattr(_frozen, "_REGISTERED", {})
    model = nn.Sequential(Foreign())
    assert describe_module(model) == []
    register_frozen(Foreign, FrozenForm(mean="mu", var="sigma2", eps="epsilon"))
    assert describe_module(model)[0].eps == 1e-4
    x = torch.randn(50, 2) * 3
    recalibrate(model, [x[:20], x[20:]])
    torch.testing.assert_close(
        model[0].get_buffer("sigma2").double(), x.double().var(0, correction=0)
    )


def test_subclasses_are_layers() -> None:
    assert [info.channels for info in describe_module(nn.Sequential(BatchNormAct2d(5)))] == [5]


def test_statistics_are_cast_to_module_dtype() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1)).half()
    recalibrate(model, [torch.tensor([[1.0], [2.0], [4.0]]).half()])
    assert stored(model)["0"][0].item() == float(np.float16(7 / 3))
    assert model[0].get_buffer("running_mean").dtype == torch.float16


def test_dtype_overflow_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).half()
    layers = {layer.name: layer for layer in find_layers(model)}
    fits = RunningStatistics(mean=np.array([1.0]), var=np.array([2.0]))
    too_large = RunningStatistics(mean=np.array([0.0]), var=np.array([7e4]))
    with pytest.raises(ModelUnsupportedError, match="float16"):
        write(layers, {"0": fits, "1": too_large})
    assert stored(model)["0"][0].item() == 0


def saved(path: Path, **tensors: np.ndarray[Any, Any]) -> Path:
    save_file({name.replace("__", "."): array for name, array in tensors.items()}, path)
    return path


VALUES = np.array([0.1, -3.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_loaded_statistics_have_module_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(dtype)
    file = saved(
        tmp_path / "s.safetensors", **{"1.running_mean": VALUES, "1.running_var": VALUES**2}
    )
    assert load_statistics(model, file) == ["1"]
    assert torch.equal(model[1].get_buffer("running_mean"), torch.tensor(VALUES, dtype=dtype))
    assert torch.equal(model[1].get_buffer("running_var"), torch.tensor(VALUES**2, dtype=dtype))


@pytest.mark.parametrize(
    ("tensors", "kind", "words"),
    [
        ({"1.running_mean": VALUES}, ModelInvalidError, "only one"),
        ({"1.weight": VALUES}, ModelInvalidError, "tensors other than"),
        ({"7.running_mean": VALUES, "7.running_var": VALUES}, OptionError, "does not have"),
        ({"1.running_mean": VALUES[:1], "1.running_var": VALUES[:1]}, OptionError, "2 channels"),
    ],
)
def test_file_of_another_network_changes_nothing(
    tmp_path: Path, tensors: dict[str, Any], kind: type[Exception], words: str
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    good = {"0.running_mean": VALUES, "0.running_var": VALUES} if "7" in str(tensors) else {}
    with pytest.raises(kind, match=words):
        load_statistics(model, saved(tmp_path / "s.safetensors", **good, **tensors))
    assert torch.equal(model[1].get_buffer("running_mean"), torch.zeros(2))


def test_invalid_file(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    for contents in (None, b"pickle"):
        if contents is not None:
            path.write_bytes(contents)
        with pytest.raises(ModelInvalidError, match=r"s\.safetensors"):
            load_statistics(nn.BatchNorm1d(2), path)
