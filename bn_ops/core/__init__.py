"""Moments, estimators and the loop over layers; depends on numpy only."""
