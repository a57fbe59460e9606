"""Estimators: moments of the target and statistics of the source in, new running statistics out."""

from bn_ops.core.estimators.base import Estimator
from bn_ops.core.estimators.guards import Guarded, guard
from bn_ops.core.estimators.json_form import estimator_from_json
from bn_ops.core.estimators.momentum import Momentum
from bn_ops.core.estimators.prior import Prior
from bn_ops.core.estimators.replace import Replace
from bn_ops.core.estimators.shrink import Shrink

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
