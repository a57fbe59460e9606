"""Folding: absorb settled BatchNorm layers into the weights beside them.

Theory of operation. A BatchNormalization in inference form is an affine map per channel,
`y = a·x + b`. The map is pushed against the data flow into whatever produces `x`, or, where that
cannot be, with the data flow into everything that reads `y`. A push ends in weights that can take
the map exactly (a convolution, a Gemm, another BatchNormalization …) and may pass operators that
commute with it (Reshape, AveragePool …). One rule per operator family says how; `walk` composes
the rules, a plan is carried out only as a whole, and whatever is not provably exact stays, with
the reason.
"""

from __future__ import annotations

from bn_ops.diagnostics.report import LayerFold
from bn_ops.folding.already import detect_already_folded
from bn_ops.folding.names import layer_name
from bn_ops.folding.result import Folded, Leftovers
from bn_ops.folding.run import fold

__all__ = [
    "Folded",
    "LayerFold",
    "Leftovers",
    "detect_already_folded",
    "fold",
    "layer_name",
]
