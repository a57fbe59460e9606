"""Encoding of models and batches for upload, and atomic writing of results."""
