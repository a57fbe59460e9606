"""Estimators: from source statistics and target moments to new running statistics."""

from bn_ops.core.estimators.auto import Auto
from bn_ops.core.estimators.base import Estimator, TargetMoments
from bn_ops.core.estimators.guards import Guarded, guard
from bn_ops.core.estimators.momentum import Momentum
from bn_ops.core.estimators.prior import Prior
from bn_ops.core.estimators.registry import (
    as_estimator,
    estimator_from_json,
    estimator_from_string,
)
from bn_ops.core.estimators.replace import Replace
from bn_ops.core.estimators.shrink import Shrink

__all__ = [
    "Auto",
    "Estimator",
    "Guarded",
    "Momentum",
    "Prior",
    "Replace",
    "Shrink",
    "TargetMoments",
    "as_estimator",
    "estimator_from_json",
    "estimator_from_string",
    "guard",
]
