"""uvicorn's HTTP protocol with limits on slow and oversized requests and on connections.

uvicorn waits indefinitely for the header of a request, keeps a header of any size in memory, has no
limit on idle connections, waits indefinitely for a client that stops reading its response, and
answers malformed requests in plain text. It has no settings for these, and an ASGI app cannot do
it, because it is called only once the header is complete. A reverse proxy can do most of it, but
the server must be safe without one.

So this package subclasses classes of uvicorn that are not its public API. Nothing else in the
server does, `service.server` alone imports it, and pyproject.toml bounds uvicorn's version: before
raising the bound, run tests/e2e/test_server_connections.py, test_connection_limit.py and
test_server_raw_requests.py with the new version.
"""
