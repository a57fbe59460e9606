"""The formats of batch bodies: checks while a body arrives, and readers for workers."""
