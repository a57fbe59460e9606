"""Runs, written once for all engines: a whole recalibration, and one shard of a measurement."""

from bn_ops.pipeline.run import run
from bn_ops.pipeline.shard import Shard, plan_for

__all__ = ["Shard", "plan_for", "run"]
