"""What a report says beyond the new statistics."""
