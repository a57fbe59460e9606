"""Spilled activations: identical results, bounded memory, no remaining files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bn_ops import recalibrate
from bn_ops.core.options import Budget
from bn_ops.engines.torch.frontier import TorchFrontier
from bn_ops.engines.torch.layers import find_layers
from bn_ops.engines.torch.spill import ActivationTracker, SpillFiles
from bn_ops.errors import SpillLimitError
from bn_ops.torch_modules.arguments import read_items
from tests.support.torch_oracle import stored
from tests.support.zoo import ZOO, ZooNetwork, split


def test_storage_is_moved_with_all_views(tmp_path: Path) -> None:
    watch = ActivationTracker(SpillFiles(Budget(spill_folder=tmp_path)), memory_bytes=0)
    with torch.no_grad(), watch:
        x = torch.randn(2, 3, 40, 40)
        parts = [x[:, 1:], x.transpose(1, 3), x.contiguous(memory_format=torch.channels_last)]
        wanted = [part.clone() for part in [x, *parts]]
        watch.enforce_limit()
        for part, expected in zip([x, *parts], wanted, strict=True):
            assert part.untyped_storage().filename is not None
            assert torch.equal(part, expected)
        assert x.untyped_storage()._cdata == parts[0].untyped_storage()._cdata
        # They are still writable views of one storage.
        x.mul_(2)
        assert torch.equal(parts[0], 2 * wanted[1])
    assert list(tmp_path.iterdir()) == []


def test_storage_with_unknown_alias_is_not_moved() -> None:
    watch = ActivationTracker(SpillFiles(Budget()), memory_bytes=0)
    with torch.no_grad(), watch:
        x = torch.randn(100, 100)
        alias = x.untyped_storage()
        with pytest.raises(SpillLimitError, match="cannot be moved"):
            watch.enforce_limit()
        assert x.untyped_storage()._cdata == alias._cdata
        assert x.untyped_storage().filename is None
        del alias


def test_weights_buffers_and_batches_are_not_moved() -> None:
    weight, batch = nn.Parameter(torch.randn(64, 64)), torch.randn(64, 64)
    before = weight.data_ptr(), batch.data_ptr()
    watch = ActivationTracker(SpillFiles(Budget()), memory_bytes=0)
    with torch.no_grad(), watch:
        views = [weight.t(), batch.view(-1), torch.cat([batch, weight]).relu_()]
        watch.enforce_limit()
    assert (weight.data_ptr(), batch.data_ptr()) == before
    assert [view.untyped_storage().filename is None for view in views] == [True, True, False]


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_spilling_changes_no_bit(network: ZooNetwork, tmp_path: Path) -> None:
    data = network.inputs(7)
    free, tight = network.build(), network.build()
    recalibrate(free, split(data, [3, 1, 3]))
    budget = Budget(memory_bytes=0, spill_folder=tmp_path)
    recalibrate(tight, split(data, [3, 1, 3]), budget=budget)
    for name, (mean, var) in stored(free).items():
        assert torch.equal(stored(tight)[name][0], mean), name
        assert torch.equal(stored(tight)[name][1], var), name
    assert list(tmp_path.iterdir()) == []


class Inference(nn.Module):
    """Tensors created in inference mode and outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> Any:
        y = x * 2
        with torch.inference_mode():
            z = self.first(x.repeat(1, 2, 1, 1)) + 1
            z = self.second(z)
        return z[:, :2] + y


def test_inference_tensors_are_moved() -> None:
    x = [torch.randn(4, 2, 20, 20) for _ in range(3)]
    free, tight = Inference(), Inference()
    recalibrate(free, x)
    recalibrate(tight, x, budget=Budget(memory_bytes=0))
    assert torch.equal(stored(tight)["second"][1], stored(free)["second"][1])


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    pairs = [(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(1, 8, 1), *(layer for pair in pairs for layer in pair)).eval()


def test_spill_limit(tmp_path: Path) -> None:
    batches = [torch.randn(4, 1, 32, 32) for _ in range(6)]
    model = deep()
    before = stored(model)
    small = Budget(memory_bytes=0, spill_bytes=200_000, spill_folder=tmp_path)
    with pytest.raises(SpillLimitError, match="200,000 bytes of files"):
        recalibrate(model, batches, budget=small)
    with pytest.raises(SpillLimitError, match="cannot spill"):
        recalibrate(
            model, batches, budget=Budget(memory_bytes=0, spill_folder=tmp_path / "missing")
        )
    for name, (mean, _) in stored(model).items():
        assert torch.equal(mean, before[name][0])
    assert list(tmp_path.iterdir()) == []


def test_no_spilling_within_budget() -> None:
    model = deep()
    items = read_items(model, [torch.randn(2, 1, 16, 16)] * 2, select=None, convert=True)
    with TorchFrontier(model, items, layers=find_layers(model), budget=Budget()) as frontier:
        assert frontier.advance()
    assert frontier.spilled_bytes == 0


_PEAK = """
import resource, sys, torch
from torch import nn
from bn_ops.core.options import Budget
from bn_ops import recalibrate

torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(1, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.BatchNorm2d(16)).eval()
# Exclude the memory of modules that torch imports in the first run.
recalibrate(model, [torch.randn(4, 1, 128, 128)], budget=Budget(memory_bytes=0))

def anonymous():
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = file.read().split()
    return (int(resident) - int(shared)) * resource.getpagesize()

peak, start = 0, anonymous()
def watch(_):
    global peak
    peak = max(peak, anonymous() - start)
limit = int(sys.argv[1])
stream = (torch.randn(4, 1, 128, 128) for _ in range(60))
recalibrate(model, stream, budget=Budget(memory_bytes=limit), progress=watch)
print(peak, anonymous() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_peak_memory_within_budget() -> None:
    def peak_and_left(limit: int) -> list[int]:
        words = [sys.executable, "-c", _PEAK, str(limit)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    # 60 batches with 4 MiB of waiting activations each.
    peak, left = peak_and_left(2**40)
    assert peak > 200 * 2**20
    assert left < 16 * 2**20
    # The current batch needs up to three such tensors in addition.
    peak, left = peak_and_left(100 * 2**20)
    assert peak < 120 * 2**20
    assert left < 16 * 2**20
