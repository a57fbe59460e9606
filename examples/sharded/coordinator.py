"""Settle the moments of several sites, level by level, and write the recalibrated model.

python -m examples.sharded.coordinator model.onnx exchange --sites 2 --output new.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

import bn_ops
from examples.sharded.exchange import moments_path, settled_path, wait_for, write


def coordinate(
    model: Path, folder: Path, sites: int, *, seconds: float
) -> dict[str, bn_ops.RunningStatistics]:
    """Return the statistics of all layers, from the samples of all sites."""
    plan = bn_ops.plan_measurement(model, allow_mixed=True)
    statistics: dict[str, bn_ops.RunningStatistics] = {}
    level = 0
    while True:
        forms = [wait_for(moments_path(folder, level, s), seconds=seconds) for s in range(sites)]
        settled = plan.settle(*map(bn_ops.ShardMoments.from_bytes, forms))
        if not settled.statistics:
            return statistics
        statistics.update(settled.statistics)
        write(settled_path(folder, level), settled.to_bytes())
        level += 1


def main() -> None:
    """Read the command line, settle all levels, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    statistics = coordinate(given.model, given.folder, given.sites, seconds=given.seconds)
    onnx.save(bn_ops.store_statistics(given.model, statistics), given.output)
    print(f"{len(statistics)} layers recalibrated: {given.output}")


if __name__ == "__main__":
    main()
