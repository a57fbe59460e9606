"""A server whose ledger does not wait for the disk: the power-cut test must detect it."""

from __future__ import annotations

import sys

from service.server import main
from service.storage.ledger import connection

if __name__ == "__main__":
    connection.SYNCHRONOUS = "NORMAL"
    sys.exit(main(sys.argv[1:]))
