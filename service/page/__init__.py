"""The web page at `/` and the API reference at `/docs`: static files, built by `make page`."""
