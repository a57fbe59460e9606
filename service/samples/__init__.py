"""A few samples that are looked at and not stored: before a run, and with its result."""
