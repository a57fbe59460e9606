"""Trained networks, cached in a folder outside the repository."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.digits.data import LabeledImages
from examples.digits.train import train

__all__ = ["DEFAULT_CACHE", "trained"]

# Outside the repository: checkpoints are by-products of one machine.
DEFAULT_CACHE = Path(tempfile.gettempdir()) / "bnrecal-accuracy"


def trained(
    cache: Path, name: str, data: LabeledImages, *, seed: int, epochs: int
) -> Mapping[str, Any]:
    """Return the state dict of the 78k-parameter ResNet of examples/digits, trained or cached.

    Args:
        cache: folder of checkpoints.
        name: stem of the file name; seed, epochs and the number of images are appended.
        data: training images.
        seed: of the initialization and the order of images.
        epochs: number of passes over the data.
    """
    path = cache / f"{name}-{len(data.labels)}x{epochs}-seed{seed}.pt"
    if not path.exists():
        began = time.perf_counter()
        cache.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        torch.save(train(data, seed=seed, epochs=epochs).state_dict(), path)
        print(f"{path.name}: trained in {time.perf_counter() - began:.0f} s", flush=True)
    state: Mapping[str, Any] = torch.load(path, weights_only=True)
    return state
