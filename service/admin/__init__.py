"""Administration of a data folder, with or without a running server."""
