"""The server, but its ledger does not wait for the disk: the test of power cuts must notice."""

from __future__ import annotations

import sys

from service.ledger import connection
from service.serve import main

if __name__ == "__main__":
    connection.SYNCHRONOUS = "NORMAL"
    sys.exit(main(sys.argv[1:]))
