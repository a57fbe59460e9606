"""Durable storage: the ledger and the blobs."""
