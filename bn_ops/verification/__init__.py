"""Verification: a folded model is compared with the unfolded one before it is returned.

Both run in onnxruntime without its own folds of BatchNorm, on calibration samples and on synthetic
ones (random, scaled by 100, zero, a single sample). Where every operator has a float64 form, the
unfolded model also runs in float64, and the folded one is compared with that.
"""

from __future__ import annotations

from bn_ops.diagnostics.report import OutputParity, Parity
from bn_ops.verification.bisection import fold_verified
from bn_ops.verification.reference import verify

__all__ = ["OutputParity", "Parity", "fold_verified", "verify"]
