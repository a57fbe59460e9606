"""Recalibrate a module on every rank of a torch.distributed job, each with a part of the data.

    torchrun --nproc-per-node 2 -m examples.sharded.distributed

Every rank settles the same moments, so all modules end with the same bits, which are those of a
run in one process.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import bn_ops

# Divides 64, so that the ranks read the batches that one process would read.
_BATCH_SIZE = 32


def recalibrate(module: nn.Module, dataset: Dataset[Any]) -> None:
    """Recalibrate a module with the same weights on every rank.

    Args:
        module: the bare module (`ddp.module`). Modified: its running statistics.
        dataset: the whole data set of `(input, label)` pairs; each rank reads its part.
    """
    ranks = dist.get_world_size()
    mine = bn_ops.shard_ranges(len(dataset), ranks)[dist.get_rank()]  # type: ignore[arg-type]
    loader = DataLoader(Subset(dataset, mine), batch_size=_BATCH_SIZE)
    plan = bn_ops.plan_measurement(module)
    statistics: dict[str, bn_ops.RunningStatistics] = {}
    with bn_ops.open_shard(
        module, loader, plan, start=mine.start, select=lambda item: item[0]
    ) as shard:
        settled = None
        while settled is None or settled.statistics:
            parts: list[Any] = [None] * ranks
            dist.all_gather_object(parts, shard.advance(settled).to_bytes())
            settled = plan.settle(*(bn_ops.ShardMoments.from_bytes(part) for part in parts))
            statistics.update(settled.statistics)
    bn_ops.store_statistics(module, statistics)


def demo() -> tuple[nn.Module, Dataset[Any]]:
    """Return a small network and data of another domain."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.BatchNorm2d(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    inputs = torch.randn(500, 3, 12, 12) * 2 + 1
    return module.eval(), TensorDataset(inputs, torch.zeros(500))


def buffers_sha256(module: nn.Module) -> str:
    """Return the sha256 of a module's buffers."""
    buffers = [buffer.numpy().tobytes() for buffer in module.buffers()]
    return hashlib.sha256(b"".join(buffers)).hexdigest()


def main() -> None:
    """Recalibrate the demo on all ranks, and print the digest of each rank's buffers."""
    dist.init_process_group("gloo")
    try:
        module, dataset = demo()
        recalibrate(module, dataset)
        print(f"rank {dist.get_rank()}: {buffers_sha256(module)}", flush=True)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
