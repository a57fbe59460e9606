"""The order of the colors: right on many scenes, undecided on crops of a few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import bn_ops
from bn_ops.input_check.color_order import scenes_of

SIDE = 32


def pictures(count: int, seed: int = 0, *, side: int = SIDE) -> NDArray[np.uint8]:
    """Return smooth pictures, each with a palette of its own; (count, side, side, 3).

    Red varies more than blue, so that the two orders differ.
    """
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, side)
    found = np.empty((count, side, side, 3))
    for picture in found:
        low, high = rng.uniform(0, 255, (2, 3)) * [1, 0.6, 0.3] + [0, 60, 90]
        waves = np.sin(
            6 * (rng.uniform(0.2, 1) * x[:, None] + rng.uniform(0.2, 1) * x) + rng.random()
        )
        picture[:] = low + (high - low) * (0.5 + 0.5 * waves[..., None])
    return np.asarray(np.round(found), dtype=np.uint8)


def crops(count: int, of: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return crops of a few larger pictures."""
    rng = np.random.default_rng([seed, of])
    whole = pictures(of, seed, side=2 * SIDE)
    corners = rng.integers(0, SIDE, (count, 2))
    return np.stack([whole[i % of, y : y + SIDE, x : x + SIDE] for i, (y, x) in enumerate(corners)])


class Start(nn.Module):
    """Layers that see each color alone, trained on many pictures in one order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        rng = np.random.default_rng(3)
        self.conv = nn.Conv2d(3, 12, 1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        kernels = np.tile(np.eye(3), (4, 1)) * rng.uniform(0.5, 2, (12, 1))
        with torch.no_grad():
            self.conv.weight.copy_(torch.from_numpy(kernels[:, :, None, None]))
        self.eval()
        planes = pictures(400, seed=99).transpose(0, 3, 1, 2) / np.float32(255)
        ordered = planes if order == "rgb" else planes[:, ::-1]
        bn_ops.recalibrate(self, [np.ascontiguousarray(ordered)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.bn(self.conv(x)).mean((2, 3))
        return scores


NETWORKS = {order: Start(order) for order in ("rgb", "bgr")}


def order_found(network: nn.Module, images: NDArray[np.uint8]) -> str:
    ranking = bn_ops.rank_preprocessings(network, images)
    return next(score.color_order for score in ranking if score.name == "unit")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_scenes_show_the_order(order: str, seed: int) -> None:
    assert order_found(NETWORKS[order], pictures(64, seed)) == order


@pytest.mark.parametrize("of", [1, 2, 3, 5, 7])
def test_crops_of_a_few_pictures_leave_it_undecided(of: int) -> None:
    for seed in range(5):
        images = crops(64, of, seed)
        assert {order_found(network, images) for network in NETWORKS.values()} == {"undecided"}


@pytest.mark.parametrize("of", [1, 2, 4, 7])
def test_scenes_are_hardly_more_than_pictures(of: int) -> None:
    for seed in range(5):
        planes = crops(64, of, seed).transpose(0, 3, 1, 2).astype(np.float32)
        # A small crop of a smooth picture may have few colors of the rest.
        assert scenes_of(planes).max() + 1 <= of + 1


def test_scenes_join_over_common_neighbors() -> None:
    # Half of each picture has the color of the next one, in an order that joins them late.
    colors = np.array([[10, 10, 10], [90, 10, 10], [90, 90, 10], [90, 90, 90], [250, 0, 250]])
    chain = [(0, 1), (2, 3), (1, 2), (4, 4)]
    planes = np.stack([np.repeat(colors[[a, b]], 8, axis=0).T.reshape(3, 4, 4) for a, b in chain])
    assert scenes_of(planes.astype(np.float32)).tolist() in ([0, 0, 0, 1], [1, 1, 1, 0])


def test_different_palettes_are_different_scenes() -> None:
    planes = pictures(24, 5).transpose(0, 3, 1, 2).astype(np.float32)
    assert scenes_of(planes).max() + 1 >= 20
