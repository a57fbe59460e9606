"""The form in which a model is deployed: its opset, and the operators of the target."""

from __future__ import annotations

from bn_ops.deployment.request import Deployment
from bn_ops.deployment.targets import TARGETS, OperatorTable, Target

__all__ = ["TARGETS", "Deployment", "OperatorTable", "Target"]
