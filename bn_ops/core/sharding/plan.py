"""What all shards of a measurement have in common, and the estimation of a level's statistics."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from bn_ops.core.estimators import Auto, Estimator
from bn_ops.core.frontier import LayerUpdate, update_layer
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moment_tree import CHUNK_SAMPLES
from bn_ops.core.options import Execution
from bn_ops.core.reduction import is_compiled
from bn_ops.core.sharding.messages import SettledLevel, ShardMoments, merge_moments
from bn_ops.core.statistics import LayerName
from bn_ops.core.version import __version__
from bn_ops.errors import OptionError, ShardMismatchError, StreamEmptyError

__all__ = ["MeasurementPlan", "common_kernels", "shard_ranges"]

# Features of the processor that numerical libraries choose their kernels by.
_FEATURES = ("avx", "fma", "f16c", "sse4", "amx", "asimd", "sve", "bf16", "fphp", "dotprod")


@dataclass(frozen=True, kw_only=True)
class MeasurementPlan:
    """A measurement that is shared by several shards: the model, its layers, and the options.

    The same model and options give the same plan everywhere, so it is made in each place instead of
    being sent; `sha256` is compared.

    Attributes:
        engine: `onnx` or `torch`.
        model_sha256: sha256 of the model.
        layers: the layers to measure, with their source statistics.
        patterns: the patterns that selected them; None for all.
        execution: how the ONNX engine runs the network; `auto` for a torch module.
        estimator: gives the statistics of a layer; used by `settle` only.
        options: options of the engine.
        allow_mixed: whether shards may run different versions, processors or executions. The result
            then depends in its last bits on which shard measures what.
    """

    engine: str
    model_sha256: str
    layers: Mapping[LayerName, LayerInfo]
    patterns: Sequence[str] | None
    execution: Execution
    estimator: Estimator
    options: Mapping[str, bool | int | float] = field(default_factory=dict)
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.estimator, Auto):
            raise OptionError(
                "the estimator Auto compares predictions, which no shard has of all samples: "
                "measure with Replace, Shrink or Prior"
            )

    @cached_property
    def sha256(self) -> str:
        """sha256 of everything that shards must have in common, hexadecimal."""
        content = {
            "bnrecal": __version__,
            "chunk": CHUNK_SAMPLES,
            "engine": self.engine,
            "model": self.model_sha256,
            "layers": sorted(self.layers),
            "execution": self.execution,
            "options": dict(self.options),
            "allow_mixed": self.allow_mixed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def update(self, moments: ShardMoments) -> dict[LayerName, LayerUpdate]:
        """Estimate the statistics of a level's layers from the moments of all shards.

        Args:
            moments: the merged moments.

        Raises:
            ShardMismatchError: they are of another plan.
            StreamEmptyError: no shard has a sample.
        """
        if moments.plan != self.sha256:
            raise ShardMismatchError(
                "the moments were measured by another plan: every shard needs the same model, "
                "layers and options"
            )
        if not moments.samples:
            raise StreamEmptyError("no shard holds a sample, so there is nothing to measure")
        unknown = sorted(moments.layers.keys() - self.layers.keys())
        if unknown:
            raise ShardMismatchError(f"the plan does not measure the layers {unknown}")
        return {
            name: update_layer(self.layers[name], total, self.estimator)
            for name, total in moments.totals().items()
        }

    def settle(self, *parts: ShardMoments) -> SettledLevel:
        """Merge the moments of all shards and estimate the level's statistics.

        Returns:
            The statistics to continue with. Without layers, the measurement is complete.

        Raises:
            ShardMismatchError: as `merge_moments`, or the moments are of another plan.
            StreamEmptyError: no shard has a sample.
        """
        merged = merge_moments(parts, allow_mixed=self.allow_mixed)
        return SettledLevel(
            plan=merged.plan,
            level=merged.level,
            statistics={name: one.statistics for name, one in self.update(merged).items()},
        )


def shard_ranges(samples: int, shards: int) -> list[range]:
    """Cut a stream of samples into consecutive ranges that begin at multiples of `CHUNK_SAMPLES`.

    Args:
        samples: number of samples.
        shards: number of ranges, ≥ 1.

    Returns:
        Ranges of about the same length; the last ones are empty where there are fewer than 64
        samples per shard.
    """
    if samples < 0 or shards < 1:
        raise OptionError(
            f"shard_ranges takes a number of samples and at least one shard, got {samples} and "
            f"{shards}"
        )
    chunks = -(-samples // CHUNK_SAMPLES)
    borders = [min(samples, chunks * i // shards * CHUNK_SAMPLES) for i in range(shards + 1)]
    return [range(start, stop) for start, stop in pairwise(borders)]


def common_kernels() -> dict[str, str]:
    """Return what the last bits of moments depend on in every engine."""
    return {
        "bnrecal": __version__,
        "numpy": np.__version__,
        "reduction": "compiled" if is_compiled() else "numpy",
        "processor": _processor(),
    }


@cache
def _processor() -> str:
    """Return the architecture, vendor and vector instructions of the processor."""
    entries: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    for line in lines:
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    vendor = entries.get("vendor_id") or entries.get("CPU implementer", "")
    features = (entries.get("flags") or entries.get("Features", "")).split()
    chosen = sorted({f for f in features if f.startswith(_FEATURES)})
    return " ".join([platform.machine(), vendor, *chosen])
