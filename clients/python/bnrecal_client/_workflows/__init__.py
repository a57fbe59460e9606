"""The operations of the client, without I/O."""
