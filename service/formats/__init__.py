"""Sans-I/O readers of batch bodies: bytes in as they arrive, a checked header out, no data kept."""
