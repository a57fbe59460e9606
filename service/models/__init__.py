"""Models that clients upload."""
