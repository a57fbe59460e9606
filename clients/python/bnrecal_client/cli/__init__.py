"""The `bnrecal` command: a thin shell over the client and bn_ops, one module per sub-command.

`exit_codes.py` lists the exit codes. Only the result goes to stdout; progress and errors go to
stderr, an error as one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Raises:
        SystemExit: for `--help` and `--version`.
    """
    try:
        # Imported here, so that Ctrl-C while numpy and httpx load is handled too.
        from bnrecal_client.cli.main import run
    except KeyboardInterrupt:
        print("bnrecal: interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        return 7
    return run(argv)
