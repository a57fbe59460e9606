"""The batches of a stream, each stored durably under its index."""
