"""ASGI middlewares of the server."""
