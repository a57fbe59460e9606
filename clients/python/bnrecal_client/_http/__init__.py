"""The HTTP API: requests and responses without I/O, and a session that exchanges them."""
