"""Estimators: moments of the target and statistics of the source in, new running statistics out."""

from bn_ops.estimators.base import Estimator
from bn_ops.estimators.guards import Guarded, guard
from bn_ops.estimators.json_form import estimator_from_json
from bn_ops.estimators.momentum import Momentum
from bn_ops.estimators.prior import Prior
from bn_ops.estimators.replace import Replace
from bn_ops.estimators.shrink import Shrink

__all__ = [
    "Estimator",
    "Guarded",
    "Momentum",
    "Prior",
    "Replace",
    "Shrink",
    "estimator_from_json",
    "guard",
]
