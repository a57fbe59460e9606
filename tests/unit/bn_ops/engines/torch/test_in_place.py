"""Layers overwrite dead inputs only: results have the bits of the usual forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bn_ops import recalibrate
from bn_ops.core.options import Budget
from bn_ops.engines.torch import frontier, in_place
from bn_ops.engines.torch.in_place import overwrite_dead_inputs
from tests.support.torch_oracle import stored

LAYOUTS = [torch.contiguous_format, torch.channels_last]


class Layers(nn.Module):
    """A convolution, a BatchNorm and an activation; subclasses call them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.SiLU()
        self.kept: Any = None


class Overwritten(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv(x)
        x = self.bn(x)
        x = self.act(x)
        return x  # noqa: RET504 - the statement is what is tested


class Nested(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        return self.act(self.bn(self.conv(x)))


class Chained(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(self.conv, self.bn, self.act)

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x)


class Variable(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        z = self.bn(y)
        return self.act(z) + y + z


class Attribute(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        self.kept = self.conv(x)
        return self.act(self.bn(self.kept)) + self.kept


class AttributeAndVariable(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        self.kept = y
        y = self.bn(y)
        return y + self.kept


class View(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        flat = y.flatten()
        y = self.bn(y)
        return y.flatten() + flat


class Detached(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        same = y.detach()
        y = self.bn(y)
        return y + same


class Part(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = torch.cat([self.conv(x), self.conv(x)], 1)
        return self.bn(y[:, :3]) + y[:, 3:] + y[:, :3]


class Expanded(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x).mean((2, 3), keepdim=True).expand(-1, -1, 5, 5)
        y = self.bn(y)
        return self.act(y)


class InList(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = [self.conv(x)]
        return self.bn(y[0]) + y[0]


class Lazy(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = [self.conv(x)]
        z: Any = map(self.bn, y)
        z = list(z)
        return z[0] + y[0]


class Caller(Layers):
    def normalized(self, y: torch.Tensor) -> Any:
        y = self.bn(y)
        return y  # noqa: RET504 - the statement is what is tested

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        return self.normalized(y) + y


class Closure(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        kept = [y]

        def both() -> Any:
            return y + kept[0]

        y = self.bn(y)
        return both()


class First(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        return self.act(self.bn(x)) + x


class Exported(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        array = y.detach().numpy()
        y = self.bn(y)
        return y + torch.from_numpy(array)


class ExportedByDlpack(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        array = np.from_dlpack(y.detach())
        y = self.bn(y)
        return y + torch.from_numpy(array)


class ExportedItselfByDlpack(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        array = np.from_dlpack(y)
        y = self.bn(y)
        return y + torch.from_numpy(array)


class Imported(Caller):
    def forward(self, x: torch.Tensor) -> Any:
        array = x.numpy()
        return self.normalized(torch.from_numpy(array)) + torch.from_numpy(array)


class LeavingInference(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.inference_mode():
            y = self.conv(x)
        y = self.bn(y)
        return self.act(y)


class Recording(Layers):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.enable_grad():
            y = self.conv(x)
            y = self.bn(y)
        return self.act(y.detach())


READERS = [
    *(Variable, Attribute, AttributeAndVariable, View, Detached, Part, Expanded, InList),
    *(Lazy, Caller, Closure, First, Exported, ExportedByDlpack, ExportedItselfByDlpack),
    *(Imported, LeavingInference, Recording),
]


def prepared(kind: Callable[[], nn.Module]) -> nn.Module:
    """Return a module in eval mode with statistics that change every value."""
    torch.manual_seed(0)
    module = kind().eval()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.get_buffer("running_mean").normal_()
            child.get_buffer("running_var").uniform_(0.5, 2)
    return module


def run(module: nn.Module, x: torch.Tensor, *, inference: bool = False) -> torch.Tensor:
    with torch.inference_mode() if inference else torch.no_grad():
        found = module(x)
    assert isinstance(found, torch.Tensor)
    return found


def overwrites(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that records the decision of each call."""
    decisions: list[bool] = []
    owns = in_place._owns_storage

    def recorded(x: torch.Tensor) -> bool:
        decisions.append(owns(x))
        return decisions[-1]

    monkeypatch.setattr(in_place, "_owns_storage", recorded)
    return decisions


@pytest.mark.parametrize("kind", [Overwritten, Nested, Chained])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_dead_inputs_are_overwritten(kind: type[Layers], layout: torch.memory_format) -> None:
    module = prepared(kind)
    x = torch.randn(2, 3, 9, 9).to(memory_format=layout)
    expected, before = run(module, x), x.clone()
    overwrite_dead_inputs(module, lambda: True)
    places: list[int] = []
    conv = module.get_submodule("conv")
    conv.register_forward_hook(lambda _, __, made: places.append(made.data_ptr()))
    found = run(module, x)
    assert torch.equal(found, expected)
    assert torch.equal(x, before)
    assert places == [found.data_ptr()]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("inference", [False, True])
def test_inputs_that_are_read_later_are_kept(
    kind: type[Layers], layout: torch.memory_format, *, inference: bool
) -> None:
    module = prepared(kind)
    x = torch.randn(2, 3, 9, 9).to(memory_format=layout)
    expected, before = run(module, x, inference=inference), x.clone()
    overwrite_dead_inputs(module, lambda: True)
    assert torch.equal(run(module, x, inference=inference), expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("path", ["conv", "bn", "act"])
def test_inputs_that_a_hook_sees_are_kept(path: str) -> None:
    module = prepared(Overwritten)
    x = torch.randn(2, 3, 9, 9)
    seen: list[torch.Tensor] = []

    def hook(_: nn.Module, args: tuple[torch.Tensor], made: torch.Tensor) -> None:
        seen.extend((args[0].clone(), args[0], made))

    module.get_submodule(path).register_forward_hook(hook)
    expected = run(module, x), *(tensor.clone() for tensor in seen)
    seen.clear()
    overwrite_dead_inputs(module, lambda: True)
    for found, wanted in zip((run(module, x), *seen), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", sorted(in_place._ACTIVATIONS, key=str))
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_have_the_same_bits_in_place(
    kind: type[nn.Module], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    module = nn.Sequential(nn.Conv2d(5, 7, 3), kind()).to(dtype).eval()
    x = torch.randn(3, 5, 13, 11, dtype=dtype).to(memory_format=layout) * 4
    expected = run(module, x)
    overwrite_dead_inputs(module, lambda: True)
    assert torch.equal(run(module, x), expected)
    assert not vars(module[1])["inplace"]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_run_gives_the_same_bits_and_leaves_no_trace(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = prepared(Chained).to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    twin = copy.deepcopy(module)
    batches = [torch.randn(4, 3, 9, 9).to(memory_format=layout) for _ in range(3)]
    decisions = overwrites(monkeypatch)
    recalibrate(module, batches)
    # Two layers of three batches.
    assert decisions == [True] * 6
    assert all("forward" not in vars(child) for child in module.modules())
    monkeypatch.setattr(frontier, "overwrite_dead_inputs", lambda *_: None)
    recalibrate(twin, batches)
    for name, values in stored(twin).items():
        for found, wanted in zip(stored(module)[name], values, strict=True):
            assert torch.equal(found, wanted)


def test_arrays_of_the_caller_are_kept() -> None:
    stream = [
        np.random.default_rng(i).normal(2, 3, (4, 3, 8, 8)).astype(np.float32) for i in (0, 1)
    ]
    before = [batch.copy() for batch in stream]
    module = prepared(Caller)

    def call(network: Any, batch: Any) -> Any:
        return network.normalized(torch.from_numpy(batch))

    recalibrate(module, stream, call=call)
    for batch, kept in zip(stream, before, strict=True):
        np.testing.assert_array_equal(batch, kept)


def test_nothing_is_overwritten_while_tensors_are_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    decisions = overwrites(monkeypatch)
    recalibrate(
        prepared(Chained),
        [torch.randn(4, 3, 60, 60) for _ in range(3)],
        budget=Budget(memory_bytes=0),
    )
    assert not decisions


def test_nothing_is_overwritten_where_references_are_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_place, "_unowned", lambda: None)
    module = prepared(Overwritten)
    overwrite_dead_inputs(module, lambda: True)
    assert all("forward" not in vars(child) for child in module.modules())


def test_methods_that_replace_forward_are_kept() -> None:
    module = prepared(Overwritten)
    own = lambda x: x + 1  # noqa: E731
    module.get_submodule("act").forward = own
    overwrite_dead_inputs(module, lambda: True)
    assert module.get_submodule("act").forward is own
