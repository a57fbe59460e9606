"""Named tokens: who may ask, what they see, and how much they may keep."""
