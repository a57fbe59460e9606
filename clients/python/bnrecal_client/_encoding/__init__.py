"""Encoding of models and batches for upload."""
