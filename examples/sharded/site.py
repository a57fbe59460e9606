"""Measure the samples of one site for a recalibration over several; no sample leaves the site.

    python -m examples.sharded.site model.onnx samples.npy exchange --site 0

The site writes moments, a few kilobytes per level, and reads statistics. After a crash, start it
again: it replays the levels that are settled.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import bn_ops
from examples.sharded.exchange import moments_path, settled_path, wait_for, write

_BATCH_SIZE = 32

# Each site has positions of its own, more than it will ever have samples.
_POSITIONS = 1 << 40


def batches(path: Path) -> Iterator[np.ndarray]:
    """Yield the samples of a .npy file in batches."""
    samples = np.load(path, mmap_mode="r")
    for start in range(0, len(samples), _BATCH_SIZE):
        yield np.array(samples[start : start + _BATCH_SIZE])


def measure(model: Path, samples: Path, folder: Path, site: int, *, seconds: float) -> None:
    """Measure one level after the other, with the statistics that the coordinator settles."""
    # Sites have different processors; their results then agree to float32's rounding.
    plan = bn_ops.plan_measurement(model, allow_mixed=True)
    with bn_ops.open_shard(model, batches(samples), plan, start=site * _POSITIONS) as shard:
        moments = shard.advance()
        if not shard.samples:
            raise SystemExit(f"{samples} holds no sample")
        while True:
            # One number set per layer leaves the site, not one per part of its samples.
            write(moments_path(folder, moments.level, site), moments.pooled().to_bytes())
            if not moments.layers:
                return
            form = wait_for(settled_path(folder, moments.level), seconds=seconds)
            moments = shard.advance(bn_ops.SettledLevel.from_bytes(form))


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--site", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3600)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    measure(given.model, given.samples, given.folder, given.site, seconds=given.seconds)


if __name__ == "__main__":
    main()
