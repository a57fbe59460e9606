"""Open Inference Protocol v2 (REST): inference requests that feed a recalibration."""
