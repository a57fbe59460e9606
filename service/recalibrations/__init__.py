"""Recalibrations: from an open stream to verified results."""
