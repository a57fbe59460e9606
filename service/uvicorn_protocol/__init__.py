"""uvicorn's HTTP protocol with limits on slow and oversized requests."""
