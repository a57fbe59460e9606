"""Helpers of the routes: bodies, media types, digests, files, pages, problem responses."""
