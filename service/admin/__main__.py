"""`python -m service.admin`."""

from __future__ import annotations

import sys

from service.admin.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
