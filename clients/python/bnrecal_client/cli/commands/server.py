"""`bnrecal serve` and `admin`: a server on this machine, by the server's package."""

from __future__ import annotations

from bnrecal_client.cli.arguments import server_missing
from bnrecal_client.cli.click_support import Arguments

__all__ = ["admin", "serve"]


def serve(args: Arguments) -> int:
    """Run the server until it ends; it prints itself why it does not start."""
    try:
        from service import server
    except ImportError as error:
        raise server_missing(error) from error
    settings = {
        "host": args.host,
        "port": args.port,
        "data_dir": args.data_dir,
        "log_level": "warning" if args.quiet else None,
        "log_format": "json" if args.json else None,
    }
    return int(server.serve(args.config, settings))


def admin(args: Arguments) -> int:
    """Run the command of the server's package, which parses its own arguments."""
    try:
        from service.admin.command import main
    except ImportError as error:
        raise server_missing(error) from error
    try:
        return main(args.words, prog="bnrecal admin")
    except SystemExit as ended:  # `--help`, or an error that argparse has printed
        return ended.code if isinstance(ended.code, int) else 0
