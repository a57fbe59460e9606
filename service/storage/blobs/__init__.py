"""Blobs: files that are either complete and durable, or absent."""
