"""Worker processes: the server's half (protocol and pools), and the child's half (`child`)."""
