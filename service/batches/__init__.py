"""Batches of a stream, each stored durably under its index."""
