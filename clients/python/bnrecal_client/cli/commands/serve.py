"""`bnrecal serve`: start a server in this process."""

from __future__ import annotations

from bnrecal_client.cli.arguments import server_missing
from bnrecal_client.cli.click_support import Arguments

__all__ = ["run"]


def run(args: Arguments) -> int:
    """Run the server until it ends; it prints itself why it does not start."""
    try:
        from service.server import serve
    except ImportError as error:
        raise server_missing(error) from error
    settings = {
        "host": args.host,
        "port": args.port,
        "data_dir": args.data_dir,
        "log_level": "warning" if args.quiet else None,
        "log_format": "json" if args.json else None,
    }
    return int(serve(args.config, settings))
