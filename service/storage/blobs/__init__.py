"""The blobs: files that are whole, durable, or not there."""
