"""Verifying: a folded model is run against the unfolded one before it is handed out.

Both run in onnxruntime with graph optimisations off, on calibration samples and on made-up ones
(random, hundredfold, zero, a single sample). Where every operator has a float64 form, the unfolded
model also runs in float64, and the folded one is held against that.
"""

from __future__ import annotations

from bn_ops.diagnostics.report import OutputParity, Parity
from bn_ops.verification.localise import fold_verified
from bn_ops.verification.run import verify

__all__ = ["OutputParity", "Parity", "fold_verified", "verify"]
