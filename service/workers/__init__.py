"""The executor: worker processes as the server sees them."""
