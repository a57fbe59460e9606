"""Recalibrations: from an open stream to a verified result."""
