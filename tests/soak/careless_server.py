"""The server, but its ledger does not wait for the disk: the test of power cuts must notice."""

from __future__ import annotations

import sys

from service.server import main
from service.storage.ledger import connection

if __name__ == "__main__":
    connection.SYNCHRONOUS = "NORMAL"
    sys.exit(main(sys.argv[1:]))
