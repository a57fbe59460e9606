"""`python -m bnrecal_client` is the `bnrecal` command."""

import sys

from bnrecal_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
