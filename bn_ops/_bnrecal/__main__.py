"""`python -m bnrecal`: the command, which the distribution bnrecal-client contains."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; without the client, print what to install."""
    try:
        from bnrecal_client.cli import main as command  # noqa: PLC0415 - another distribution
    except ImportError as error:
        sys.stderr.write(
            f"bnrecal: the command needs the package bnrecal-client ({error}): "
            'pip install "bnrecal[client]"\n'
        )
        return 2
    return int(command())


if __name__ == "__main__":
    sys.exit(main())
