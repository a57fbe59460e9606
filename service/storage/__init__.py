"""The ledger and the blobs."""
