"""bn_ops: exact BatchNorm recalibration, folding and verification."""
