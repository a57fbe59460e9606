"""Data sets and memory maps as streams: the same statistics as from batches of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import bn_ops
from bn_ops.core.batches import DATA_SET_BATCH
from bn_ops.errors import OptionError
from bnrecal_client._encoding import batch_source
from tests.support.networks import residual_network

SAMPLES = np.random.default_rng(7).normal(0.3, 2, (75, 3, 8, 8)).astype(np.float32)
BATCHES = [SAMPLES[at : at + DATA_SET_BATCH] for at in range(0, 75, DATA_SET_BATCH)]


class Columns:
    """A `datasets.Dataset` of the column `x` and labels."""

    def __init__(self, format_: str = "python") -> None:
        self._format = format_

    def with_format(self, name: str) -> Columns:
        return Columns(name)

    def iter(self, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
        assert self._format == "numpy"
        for at in range(0, len(SAMPLES), batch_size):
            x = SAMPLES[at : at + batch_size]
            yield {"x": x, "label": np.zeros(len(x), np.int64)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pytest.fail("read sample by sample")


class Elements:
    """A `tf.data.Dataset` of batches and labels."""

    def as_numpy_iterator(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        return ((one, np.zeros(len(one), np.int64)) for one in BATCHES)


def mapped(folder: Path) -> np.memmap[Any, Any]:
    path = folder / "x.npy"
    np.save(path, SAMPLES)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


class Small(nn.Module):
    """One BatchNorm layer after a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.conv(x))
        return y


def streams(folder: Path) -> dict[str, Any]:
    return {"memmap": mapped(folder), "datasets.Dataset": Columns(), "tf.data.Dataset": Elements()}


def statistics(model: Any, stream: Any) -> list[NDArray[Any]]:
    done = bn_ops.recalibrate(model, stream, estimator="replace", allow_mismatch=True)
    assert done.report.stream.samples == len(SAMPLES)
    return [array for layer in done.statistics.values() for array in (layer.mean, layer.var)]


@pytest.mark.parametrize("kind", ["memmap", "datasets.Dataset", "tf.data.Dataset"])
@pytest.mark.parametrize("build", [residual_network, lambda: Small().eval()], ids=["onnx", "torch"])
def test_statistics_are_those_of_the_batches(build: Any, kind: str, tmp_path: Path) -> None:
    expected = statistics(build(), BATCHES)
    found = statistics(build(), streams(tmp_path)[kind])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["memmap", "datasets.Dataset", "tf.data.Dataset"])
def test_input_check_reads_them(kind: str, tmp_path: Path) -> None:
    for model in (residual_network(), Small().eval()):
        assert bn_ops.check_input(model, streams(tmp_path)[kind], allow_mismatch=True).samples == 64


def test_client_cuts_the_same_batches() -> None:
    assert batch_source._BATCH == DATA_SET_BATCH


def test_one_array_in_memory_is_still_an_error() -> None:
    # It may be one batch or many samples; a memory map is never meant as one batch.
    with pytest.raises(OptionError, match="wrap it in a list"):
        bn_ops.recalibrate(residual_network(), SAMPLES)
