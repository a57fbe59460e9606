"""Folding: absorb BatchNorm layers into neighboring weights.

Theory of operation. A BatchNormalization in inference form is an affine map per channel,
`y = a·x + b`. The map is pushed backward into the producer of `x` or, where that is not possible,
forward into all readers of `y`. A push ends at weights that can absorb the map exactly (a
convolution, a Gemm, another BatchNormalization …) and may pass operators that commute with it
(Reshape, AveragePool …). There is one rule per operator family; `walk` composes the rules, a plan
is applied completely or not at all, and a layer whose fold is not provably exact is kept, with the
reason.
"""

from __future__ import annotations

from bn_ops.diagnostics.report import LayerFold
from bn_ops.folding.names import layer_name
from bn_ops.folding.prefolded_detection import detect_already_folded
from bn_ops.folding.result import Folded, Unfolded
from bn_ops.folding.run import fold

__all__ = [
    "Folded",
    "LayerFold",
    "Unfolded",
    "detect_already_folded",
    "fold",
    "layer_name",
]
