"""BatchNorm layers for models that have none: folded by an exporter, or never trained with any.

Theory of operation. Let w be the output of a convolution, with mean m and variance v over samples
of the *source* domain. A BatchNormalization with running mean m, running variance v, β = m and
γ = √(v + ε) returns w itself, so inserting it changes nothing. Recalibrated on the target, it maps
the target's mean and variance of w to the source's. That is what recalibrating the original layer
does: folding has made w = a·z + b of the original layer's input z, and this affine map cancels in
the normalization. Only the size of ε in units of w is not known; `filters` estimates it.
"""

from bn_ops.batchnorm_insertion.describe import describe_insertable
from bn_ops.batchnorm_insertion.insert import insert_batchnorm
from bn_ops.batchnorm_insertion.result import InsertedLayer, Insertion, LeftOperator

__all__ = [
    "InsertedLayer",
    "Insertion",
    "LeftOperator",
    "describe_insertable",
    "insert_batchnorm",
]
