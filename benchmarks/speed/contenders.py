"""The timed contenders: complete passes over the same images, written as a user would."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import bn_ops
from benchmarks.networks import build
from bn_ops.onnx_files.session import session

if TYPE_CHECKING:
    import onnx

__all__ = ["RATIOS", "contenders", "exported", "random_images"]


# Column of the table → contender in the numerator and in the denominator.
RATIOS = {
    "onnx exact / onnxruntime pass": ("onnx exact", "onnxruntime pass"),
    "onnx exact / update_bn": ("onnx exact", "update_bn"),
    "onnx exact / update_bn, channels_last": ("onnx exact", "update_bn, channels_last"),
    "torch exact / update_bn": ("torch exact", "update_bn"),
    "torch exact / update_bn, channels_last": (
        "torch exact, channels_last",
        "update_bn, channels_last",
    ),
}


def contenders(
    name: str, *, images: int, batch: int, size: int, threads: int
) -> Mapping[str, Callable[[], object]]:
    """Return the contenders of a network; each call is one complete pass.

    Args:
        name: a network of `benchmarks.networks`.
        images: number of random images, the same for all contenders.
        batch: images per batch.
        size: height and width of an image.
        threads: threads of onnxruntime and torch.
    """
    torch.set_num_threads(threads)
    arrays = random_images(images, batch=batch, size=size)
    return {
        **_onnx(exported(name, size=size), arrays, threads),
        **_torch(name, arrays, torch.contiguous_format, ""),
        **_torch(name, arrays, torch.channels_last, ", channels_last"),
    }


def random_images(images: int, *, batch: int, size: int) -> list[np.ndarray]:
    """Return batches of images (batch, 3, size, size), float32, the same in every call."""
    rng = np.random.default_rng(0)
    shape = (batch, 3, size, size)
    return [rng.normal(0, 1, shape).astype(np.float32) for _ in range(images // batch)]


def exported(name: str, *, size: int) -> onnx.ModelProto:
    """Return a network of `benchmarks.networks` as ONNX, with BatchNorm kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bn_ops.export(build(name), (torch.zeros(2, 3, size, size),))


def _onnx(
    model: onnx.ModelProto, arrays: list[np.ndarray], threads: int
) -> dict[str, Callable[[], object]]:
    plain = session(model.SerializeToString(), threads=threads)
    feed = model.graph.input[0].name

    def forward() -> None:
        for array in arrays:
            plain.run(None, {feed: array})

    return {
        "onnxruntime pass": forward,
        "onnx exact": lambda: bn_ops.recalibrate(model, arrays, threads=threads),
    }


def _torch(
    name: str, arrays: list[np.ndarray], layout: torch.memory_format, suffix: str
) -> dict[str, Callable[[], object]]:
    module: nn.Module = build(name).to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    batches = [torch.from_numpy(array).to(memory_format=layout) for array in arrays]

    def update() -> None:
        update_bn(batches, module)
        module.eval()

    return {
        f"torch exact{suffix}": lambda: bn_ops.recalibrate(module, batches),
        f"update_bn{suffix}": update,
    }
