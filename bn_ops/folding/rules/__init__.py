"""Folding rules, one module per operator family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bn_ops.folding.rules.add import AddRule
from bn_ops.folding.rules.base import Rule, Walk
from bn_ops.folding.rules.batchnorm import BatchNormRule
from bn_ops.folding.rules.concat import ConcatRule
from bn_ops.folding.rules.conv import ConvRule
from bn_ops.folding.rules.conv_transpose import ConvTransposeRule
from bn_ops.folding.rules.gemm import GemmRule
from bn_ops.folding.rules.identity import IdentityRule
from bn_ops.folding.rules.matmul import MatMulRule
from bn_ops.folding.rules.mul import MulRule
from bn_ops.folding.rules.pad import PadRule
from bn_ops.folding.rules.pool import PoolRule
from bn_ops.folding.rules.reduce import ReduceRule
from bn_ops.folding.rules.reshape import ReshapeRule
from bn_ops.folding.rules.resize import ResizeRule
from bn_ops.folding.rules.transpose import TransposeRule

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RULES", "Rule", "Walk"]

_ALL: tuple[Rule, ...] = (
    AddRule(),
    BatchNormRule(),
    ConcatRule(),
    ConvRule(),
    ConvTransposeRule(),
    GemmRule(),
    IdentityRule(),
    MatMulRule(),
    MulRule(),
    PadRule(),
    PoolRule(),
    ReduceRule(),
    ReshapeRule(),
    ResizeRule(),
    TransposeRule(),
)

RULES: Mapping[str, Rule] = {op: rule for rule in _ALL for op in rule.ops}
"""Rule by operator of the standard domain."""
