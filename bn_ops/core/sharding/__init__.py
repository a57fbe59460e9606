"""Measure one stream in several places: moments go up, statistics come down, samples stay.

Each shard measures its part of the stream up to the next layers and returns a `ShardMoments` of a
few kilobytes; `merge_moments` joins those of all shards, `MeasurementPlan.settle` estimates the
layers' statistics, and every shard continues with them. `Conductor` is that loop.
"""

from bn_ops.core.sharding.conductor import Conductor, ShardCall, ShardedResult
from bn_ops.core.sharding.messages import SettledLevel, ShardMoments, merge_moments
from bn_ops.core.sharding.plan import MeasurementPlan, shard_ranges

__all__ = [
    "Conductor",
    "MeasurementPlan",
    "SettledLevel",
    "ShardCall",
    "ShardMoments",
    "ShardedResult",
    "merge_moments",
    "shard_ranges",
]
