"""`bnrecal admin`: the operator's commands, on the machine of the server."""

from __future__ import annotations

from bnrecal_client.cli.arguments import server_missing
from bnrecal_client.cli.click_support import Arguments

__all__ = ["run"]


def run(args: Arguments) -> int:
    """Run the command of the server's package, which parses its own arguments."""
    try:
        from service.admin.command import main
    except ImportError as error:
        raise server_missing(error) from error
    try:
        return main(args.words, prog="bnrecal admin")
    except SystemExit as ended:  # `--help`, or an error that argparse has printed
        return ended.code if isinstance(ended.code, int) else 0
