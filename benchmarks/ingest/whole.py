"""Measure the wall time of the same recalibration in-process and over HTTP, alternating."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import bn_ops
from benchmarks.networks import build
from bnrecal_client import Client
from tests.support.server_process import ServerProcess

__all__ = ["measure"]

_NETWORK = "resnet18"
_BATCH, _SIZE = 8, 224


def measure(*, images: int, repeats: int, threads: int) -> dict[str, Any]:
    """Recalibrate ResNet-18 in-process and over HTTP; return seconds and the ratio of medians.

    Args:
        images: number of images in the stream.
        repeats: number of runs of each kind.
        threads: threads of onnxruntime, in-process and in the server's worker.
    """
    random = np.random.default_rng(0)
    shape = (_BATCH, 3, _SIZE, _SIZE)
    batches = [random.normal(size=shape).astype(np.float32) for _ in range(images // _BATCH)]
    seconds: dict[str, list[float]] = {"in_process": [], "http": []}
    with tempfile.TemporaryDirectory(prefix="bnrecal-whole-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(
            bn_ops.export(build(_NETWORK), (torch.zeros(2, 3, _SIZE, _SIZE),)).SerializeToString()
        )
        settings = {"worker_threads": threads}
        with (
            ServerProcess(Path(folder) / "data", settings=settings) as server,
            Client(server.url) as client,
        ):
            for _ in range(repeats):
                began = perf_counter()
                bn_ops.adapt(path, batches, threads=threads)
                seconds["in_process"].append(perf_counter() - began)
                began = perf_counter()
                client.recalibrate(path, batches, progress=False)
                seconds["http"].append(perf_counter() - began)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "network": _NETWORK,
        "images": images,
        "threads": threads,
        "seconds": seconds,
        "ratio": medians["http"] / medians["in_process"],
    }
