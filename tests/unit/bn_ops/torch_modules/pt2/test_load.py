"""Valid `.pt2` files: the loaded program is equivalent to the saved one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bn_ops
from bn_ops.errors import ModelInvalidError, ModelUnsafeError
from bn_ops.torch_modules.pt2 import load_pt2
from tests.support.pt2_files import Small, saved


class _Pair(nn.Module):
    """A network with two inputs, a dict of outputs, an extra buffer and computed sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.register_buffer("scale", torch.tensor([2.0]))
        self.bn = nn.BatchNorm1d(6)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([x, y], dim=1)
        pairs = joined.reshape(joined.shape[0] * 2, 3)
        return {"normal": self.bn(joined) * self.scale, "pairs": torch.nn.functional.gelu(pairs)}


def test_loaded_program_is_equivalent(tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    program = saved(Small(), (torch.randn(2, 3, 8, 8),), path)
    loaded = load_pt2(path)
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(loaded.module()(x), program.module()(x))


def test_unnamed_layers_have_numbers_as_names(tmp_path: Path) -> None:
    path = tmp_path / "sequence.pt2"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).eval()
    program = saved(network, (torch.randn(2, 3, 8, 8),), path)
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(load_pt2(path).module()(x), program.module()(x))
    assert list(bn_ops.recalibrate(path, [x.numpy()]).statistics) == ["1.0"]


def test_inputs_outputs_buffers_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "pair.pt2"
    args = (torch.randn(4, 2), torch.randn(4, 4))
    program = saved(_Pair(), args, path)
    expected, found = program.module()(*args), load_pt2(path).module()(*args)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_recalibration_agrees_with_module(tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    saved(Small(), (torch.randn(2, 3, 8, 8),), path)
    batches = [np.random.default_rng(0).normal(1, 2, (16, 3, 8, 8)).astype(np.float32)]
    program = bn_ops.recalibrate(path, batches)
    module = bn_ops.recalibrate(Small().eval(), batches)
    assert list(program.statistics) == ["bn"]
    for name, statistics in module.statistics.items():
        found = program.statistics[name]
        scale = np.sqrt(statistics.var)
        # Two engines with float32 convolutions: 1e-4 relative to the scale of the layer.
        assert np.abs(found.mean - statistics.mean).max() <= 1e-4 * scale.min()
        assert np.abs(found.var / statistics.var - 1).max() <= 1e-4


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04N.", b"no archive at all"])
def test_files_that_are_not_archives(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(data)
    with pytest.raises(ModelInvalidError, match="cannot be read"):
        load_pt2(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    saved(Small(), (torch.randn(2, 3, 8, 8),), path)
    path.write_bytes(path.read_bytes()[:-200])
    # The remaining bytes may end with the archive of the sample inputs, which is complete.
    with pytest.raises((ModelInvalidError, ModelUnsafeError)):
        load_pt2(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalidError, match="cannot be read"):
        load_pt2(tmp_path / "none.pt2")
