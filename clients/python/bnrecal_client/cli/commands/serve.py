"""`bnrecal serve`: start a server in this process."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from bnrecal_client.cli.arguments import server_missing

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "serve",
        help="start a server",
        description="Start a bnrecal server. Its other settings come from a TOML file or the "
        "environment (BNRECAL_…, see docs/service.md).",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    parser.add_argument("--host", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to bind; 0 picks a free one (default 8000)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="folder for all data (default ./bnrecal-data)",
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(command=run)


def run(args: Namespace) -> int:
    """Run the server until it ends; it prints itself why it does not start."""
    try:
        from service.server import serve
    except ImportError as error:
        raise server_missing(error) from error
    settings = {"host": args.host, "port": args.port, "data_dir": args.data_dir}
    return int(serve(args.config, settings))
